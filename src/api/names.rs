//! Names of API servers without the C library: a static binary that calls getaddrinfo loads NSS modules at run time, and
//! crashes where they are missing or of another version.
//!
//! `/etc/hosts` and `/etc/resolv.conf` are read when the first name is asked for. Addresses never come here.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::ResolverConfig;
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hyper_util::client::legacy::connect::dns::Name;
use tower::{BoxError, Service};

/// For one server: resolv.conf's own 5 s would leave no time for a second one.
const PATIENCE: Duration = Duration::from_secs(1);

#[derive(Clone, Default)]
pub struct Names(Arc<OnceLock<TokioResolver>>);

impl Names {
    fn resolver(&self) -> Result<&TokioResolver, NetError> {
        if let Some(resolver) = self.0.get() {
            return Ok(resolver);
        }
        // Without resolv.conf, or a server in it, there still is /etc/hosts.
        let mut builder = TokioResolver::builder_tokio().unwrap_or_else(|_| {
            TokioResolver::builder_with_config(ResolverConfig::default(), TokioRuntimeProvider::default())
        });
        let options = builder.options_mut();
        options.timeout = options.timeout.min(PATIENCE);
        // One process asks for one name.
        options.cache_size = 1;
        let resolver = builder.build()?;
        Ok(self.0.get_or_init(|| resolver))
    }

    async fn addresses(&self, name: &str) -> Result<Vec<SocketAddr>, BoxError> {
        let found = async { self.resolver()?.lookup_ip(name).await }.await;
        let found = found.map_err(|e| format!("name {name} is not known: {e}"))?;
        Ok(found.iter().map(|address| SocketAddr::new(address, 0)).collect())
    }
}

impl Service<Name> for Names {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let names = self.clone();
        Box::pin(async move { names.addresses(name.as_str()).await.map(Vec::into_iter) })
    }
}
