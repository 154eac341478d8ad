//! Where the API server is, and who we are to it: a kubeconfig's current context, or what a pod has in its environment.
//!
//! Files are read here, nothing is sent. What kube makes of a kubeconfig holds, but for four things that client-go does
//! otherwise and that people's files rely on: a token file beats a token and may end in a newline, nothing is asked of a
//! person, no credentials go over plain http, and a proxy of the environment binds only whom `NO_PROXY` does not name.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use futures_util::FutureExt;
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use kube::config::{
    AuthInfo, Cluster, Context, ExecInteractiveMode, KubeConfigOptions, Kubeconfig, KubeconfigError, NamedAuthInfo,
    NamedCluster, NamedContext,
};

use crate::types::{Code, Failure, Outcome};

pub type Env<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// Where Kubernetes puts a pod's own token and CA.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

#[derive(Clone)]
#[expect(clippy::disallowed_types, reason = "api alone builds clients")]
pub struct Settings {
    /// Without token file, proxy, and anything that a person would have to answer.
    pub config: kube::Config,
    /// Read again for each request: it is replaced while we run.
    pub token_file: Option<PathBuf>,
    pub proxy: Option<Intercept>,
    /// `http:`; what there was of credentials is left out.
    pub plain: bool,
    /// There were some.
    pub unsent_credentials: bool,
}

impl Settings {
    /// The kubeconfig, else the pod's own, else none.
    pub fn find(kubeconfig: Option<&Path>, env: Env<'_>) -> Outcome<Option<Self>> {
        match kubeconfig {
            Some(path) => Self::of_file(path, env).map(Some),
            None => Self::of_pod(env, Path::new(SERVICE_ACCOUNT)),
        }
    }

    fn of_file(path: &Path, env: Env<'_>) -> Outcome<Self> {
        let place = format!("kubeconfig {}", path.display());
        let file = Kubeconfig::read_from(path).map_err(|e| bad(&place, &e))?;
        Self::of(file, env, &place)
    }

    /// As client-go does: both variables are there, else we are in no pod.
    fn of_pod(env: Env<'_>, account: &Path) -> Outcome<Option<Self>> {
        let var = |key| text(env, key);
        let (Some(host), Some(port)) = (var("KUBERNETES_SERVICE_HOST"), var("KUBERNETES_SERVICE_PORT")) else {
            return Ok(None);
        };
        let host = if host.contains(':') { format!("[{host}]") } else { host };
        let name = "pod".to_owned();
        let at = |file: &str| Some(account.join(file).to_string_lossy().into_owned());
        let cluster = Cluster {
            server: Some(format!("https://{host}:{port}")),
            certificate_authority: at("ca.crt"),
            ..Default::default()
        };
        let user = AuthInfo { token_file: at("token"), ..Default::default() };
        let context = Context { cluster: name.clone(), user: Some(name.clone()), ..Default::default() };
        let config = Kubeconfig {
            clusters: vec![NamedCluster { name: name.clone(), cluster: Some(cluster), ..Default::default() }],
            auth_infos: vec![NamedAuthInfo { name: name.clone(), auth_info: Some(user), ..Default::default() }],
            contexts: vec![NamedContext { name: name.clone(), context: Some(context), ..Default::default() }],
            current_context: Some(name),
            ..Default::default()
        };
        Self::of(config, env, &format!("service account in {}", account.display())).map(Some)
    }

    #[expect(clippy::disallowed_types, reason = "api alone builds clients")]
    fn of(mut file: Kubeconfig, env: Env<'_>, place: &str) -> Outcome<Self> {
        let explicit = prepare(&mut file);
        let options = KubeConfigOptions::default();
        // It is asynchronous in name only.
        let made = kube::Config::from_custom_kubeconfig(file, &options).now_or_never();
        let made = made.ok_or_else(|| Failure::new(Code::Kubeconfig, format!("{place}: not read")))?;
        let mut config = made.map_err(|e| bad(place, &e))?;
        config.proxy_url = None;
        let plain = config.cluster_url.scheme_str() == Some("http");
        if config.cluster_url.host().is_none() {
            return Err(Failure::new(
                Code::Kubeconfig,
                format!("{place}: server \"{}\" has no host", config.cluster_url),
            ));
        }
        let proxy = if plain { None } else { proxy(explicit, env, &config.cluster_url, place)? };
        let (token_file, unsent_credentials) = if plain {
            let had = has_credentials(&config.auth_info);
            config.auth_info = AuthInfo::default();
            (None, had)
        } else {
            (take_token_file(&mut config.auth_info), false)
        };
        if let Some(exec) = &mut config.auth_info.exec {
            exec.interactive_mode = Some(ExecInteractiveMode::Never);
        }
        Ok(Self { config, token_file, proxy, plain, unsent_credentials })
    }

    /// Whether another program gives the credentials.
    pub fn runs_a_program(&self) -> bool {
        self.config.auth_info.exec.is_some() || self.config.auth_info.auth_provider.is_some()
    }

    /// The server's address, for people.
    pub fn server(&self) -> String {
        shown(self.config.cluster_url.to_string().trim_end_matches('/'))
    }
}

/// Gives each server a scheme, and takes the proxy of the current context out.
fn prepare(file: &mut Kubeconfig) -> Option<String> {
    let current = file.current_context.clone();
    let context = file.contexts.iter().find(|c| Some(&c.name) == current.as_ref()).and_then(|c| c.context.clone());
    let has_certificate = context.as_ref().and_then(|c| c.user.as_ref()).is_some_and(|user| {
        file.auth_infos
            .iter()
            .filter(|u| &u.name == user)
            .filter_map(|u| u.auth_info.as_ref())
            .any(|u| u.client_certificate.is_some() || u.client_certificate_data.is_some())
    });
    let named = file.clusters.iter_mut().find(|c| Some(&c.name) == context.as_ref().map(|c| &c.cluster));
    let cluster = named.and_then(|c| c.cluster.as_mut())?;
    let secure = has_certificate
        || cluster.certificate_authority.is_some()
        || cluster.certificate_authority_data.is_some()
        || cluster.insecure_skip_tls_verify == Some(true);
    if let Some(server) = cluster.server.as_mut().filter(|s| !s.contains("://")) {
        *server = format!("{}://{server}", if secure { "https" } else { "http" });
    }
    cluster.proxy_url.take().filter(|p| !p.is_empty())
}

/// client-go: a token file that can be read beats a token; kube has it the other way round.
fn take_token_file(user: &mut AuthInfo) -> Option<PathBuf> {
    let file = PathBuf::from(user.token_file.take().filter(|f| !f.is_empty())?);
    if user.token.is_some() && std::fs::metadata(&file).is_err() {
        return None;
    }
    user.token = None;
    Some(file)
}

fn has_credentials(user: &AuthInfo) -> bool {
    let certificate = user.client_certificate.is_some() || user.client_certificate_data.is_some();
    let token = user.token.is_some() || user.token_file.is_some();
    certificate || token || user.username.is_some() || user.exec.is_some() || user.auth_provider.is_some()
}

/// A proxy of the kubeconfig holds always, one of the environment as `NO_PROXY` says, and never for this machine.
fn proxy(explicit: Option<String>, env: Env<'_>, server: &http::Uri, place: &str) -> Outcome<Option<Intercept>> {
    let either = |upper, lower| text(env, upper).or_else(|| text(env, lower)).unwrap_or_default();
    let matcher = match &explicit {
        Some(proxy) => Matcher::builder().https(proxy.clone()).build(),
        None => Matcher::builder()
            .https(either("HTTPS_PROXY", "https_proxy"))
            .no(format!("localhost,127.0.0.0/8,::1,{}", either("NO_PROXY", "no_proxy")))
            .build(),
    };
    let found = matcher.intercept(server);
    let scheme = found.as_ref().and_then(|p| p.uri().scheme_str());
    if explicit.is_some() && found.is_none() || scheme.is_some_and(|s| s != "http") {
        let named = explicit.as_deref().map_or_else(|| "of HTTPS_PROXY".into(), shown);
        return Err(Failure::new(Code::Kubeconfig, format!("{place}: proxy {named} is none that trestle can use"))
            .remedy("name an http:// proxy, or put the API server into NO_PROXY"));
    }
    Ok(found)
}

/// An address for people: without user and password, which stand in front of the last `@` of its authority.
fn shown(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").map_or(("", url), |(scheme, rest)| (scheme, rest));
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let host = rest[..end].rsplit_once('@').map_or(&rest[..end], |(_, host)| host);
    let separator = if scheme.is_empty() { "" } else { "://" };
    format!("{scheme}{separator}{host}{}", &rest[end..])
}

fn text(env: Env<'_>, key: &str) -> Option<String> {
    env(key).and_then(|v| v.into_string().ok()).filter(|v| !v.is_empty())
}

/// A parser's own words quote the file, and that may be a token.
fn bad(place: &str, e: &KubeconfigError) -> Failure {
    let why = match e {
        KubeconfigError::Parse(e) => match e.location() {
            Some(at) => format!("not the YAML of a kubeconfig at line {}, column {}", at.line(), at.column()),
            None => "not the YAML of a kubeconfig".into(),
        },
        KubeconfigError::ReadConfig(e, _) => format!("cannot be read: {e}"),
        other => other.to_string(),
    };
    Failure::new(Code::Kubeconfig, format!("{place}: {why}")).remedy("correct the file, or let its writer do so")
}

#[cfg(test)]
mod tests;
