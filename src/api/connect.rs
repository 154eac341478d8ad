//! The one place where a client is built, on a connector that asks no C library for names.
//!
//! kube's own constructors do ask it, and `clippy.toml` forbids them. TLS and credentials are set up here and not
//! before: a call that needs no API server pays for neither.

use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::{HeaderName, HeaderValue, Uri};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::legacy::connect::{Connect, HttpConnector};
use hyper_util::rt::TokioExecutor;
use kube::Client;
use kube::client::{Body, ConfigExt};
use tower::{BoxError, Layer, Service, ServiceExt};

use super::names::Names;
use super::settings::Settings;
use crate::types::{Code, Failure, Outcome};

/// Within a runtime. `limit`: for a connection, name and TLS included.
pub fn client(settings: &Settings, limit: Duration) -> Outcome<Client> {
    let mut tcp = HttpConnector::new_with_resolver(Names::default());
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    // A watch says nothing for long: a node that was cut off notices it by these, within half a minute.
    tcp.set_keepalive(Some(Duration::from_secs(10)));
    tcp.set_keepalive_interval(Some(Duration::from_secs(5)));
    tcp.set_keepalive_retries(Some(3));
    // Shared out among the addresses of a name. The whole is bounded below; a little earlier, as that one says it better.
    tcp.set_connect_timeout(Some(limit + limit / 10));
    if settings.plain {
        return build(settings, Within { inner: tcp, limit });
    }
    match &settings.proxy {
        None => {
            let tls = settings.config.rustls_https_connector_with_connector(tcp).map_err(|e| unusable(settings, &e))?;
            build(settings, Within { inner: tls, limit })
        }
        Some(proxy) => {
            let mut tunnel = Tunnel::new(proxy.uri().clone(), tcp);
            if let Some(auth) = proxy.basic_auth() {
                tunnel = tunnel.with_auth(auth.clone());
            }
            let tls =
                settings.config.rustls_https_connector_with_connector(tunnel).map_err(|e| unusable(settings, &e))?;
            build(settings, Within { inner: tls, limit })
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the one client, on our connector")]
fn build<C: Connect + Clone + Send + Sync + 'static>(settings: &Settings, connector: C) -> Outcome<Client> {
    let mut config = settings.config.clone();
    let agent = concat!("trestle/", env!("CARGO_PKG_VERSION"));
    config.headers.push((HeaderName::from_static("user-agent"), HeaderValue::from_static(agent)));
    let http = legacy::Client::builder(TokioExecutor::new()).build::<_, Body>(connector);
    let service = config.extra_headers_layer().map_err(|e| unusable(settings, &e))?.layer(http);
    let auth = config.auth_layer().map_err(|e| unusable(settings, &e))?;
    let service = tower::util::option_layer(auth).layer(service.map_err(BoxError::from));
    let service = config.base_uri_layer().layer(service);
    Ok(Client::new(service, config.default_namespace))
}

fn unusable(settings: &Settings, e: &kube::Error) -> Failure {
    Failure::new(Code::Kubeconfig, format!("credentials for {}: {}", settings.server(), super::ask::chain(e)))
        .remedy("correct the certificates, token or program that the kubeconfig names")
}

/// A connector with a bound to the whole of its work.
#[derive(Clone)]
struct Within<C> {
    inner: C,
    limit: Duration,
}

impl<C> Service<Uri> for Within<C>
where
    C: Service<Uri>,
    C::Response: 'static,
    C::Error: Into<BoxError>,
    C::Future: Send + 'static,
{
    type Response = C::Response;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<C::Response, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let (limit, connection) = (self.limit, self.inner.call(to));
        Box::pin(async move {
            match tokio::time::timeout(limit, connection).await {
                Ok(connected) => connected.map_err(Into::into),
                Err(_) => Err(std::io::Error::new(
                    std::io::ErrorKind::TimedOut,
                    format!("no connection within {} s", limit.as_secs_f32()),
                )
                .into()),
            }
        })
    }
}
