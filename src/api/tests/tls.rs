//! TLS and credentials: CA, client certificates, tokens, programs.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

use super::*;

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn pem(&self) -> String {
        self.0.pem()
    }

    fn sign(&self, name: &str) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        (CertificateParams::new([name.to_owned()]).unwrap().signed_by(&key, &self.0).unwrap(), key)
    }

    /// A server with a certificate for this name; it wants one of the same CA from clients if told so.
    fn server(&self, name: &str, mutual: bool, answer: impl FnMut(&testing::Seen) -> Reply + Send + 'static) -> Fake {
        let (certificate, key) = self.sign(name);
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let builder = ServerConfig::builder();
        let builder = if mutual {
            let mut roots = RootCertStore::empty();
            roots.add(self.0.der().clone()).unwrap();
            builder.with_client_cert_verifier(WebPkiClientVerifier::builder(Arc::new(roots)).build().unwrap())
        } else {
            builder.with_no_client_auth()
        };
        let config = builder.with_single_cert(vec![certificate.der().clone()], key).unwrap();
        Fake::serve(TcpListener::bind("127.0.0.1:0").unwrap(), Some(Arc::new(config)), answer)
    }
}

fn ask(fake: &Fake, dir: &Path, mut cluster: Value, user: &Value) -> Outcome<Option<Value>> {
    cluster["server"] = json!(format!("https://{}", fake.address));
    let file = testing::kubeconfig(dir, &cluster, user);
    // An exchange in a debug build on a busy machine takes its time.
    let limits = Limits { connect: Duration::from_secs(3), ..short() };
    block_on(
        testing::api(&file, Limits { request: Duration::from_secs(3), total: Duration::from_secs(4), ..limits })
            .get_pod("prod", "web"),
    )
}

fn ok(_: &testing::Seen) -> Reply {
    Reply::Json(200, json!({"ok": true}))
}

#[test]
fn the_servers_certificate_must_be_of_the_ca_and_for_the_name() {
    let tmp = tempfile::tempdir().unwrap();
    let (ours, other) = (Authority::new("ours"), Authority::new("other"));
    fs::write(tmp.path().join("ca.crt"), ours.pem()).unwrap();
    let by_file = json!({"certificate-authority": "ca.crt"});
    let by_data = json!({"certificate-authority-data": base64(&ours.pem())});
    let good = ours.server("127.0.0.1", false, ok);
    let none = json!({});
    for cluster in [&by_file, &by_data, &json!({"insecure-skip-tls-verify": true})] {
        assert_eq!(ask(&good, tmp.path(), cluster.clone(), &none).unwrap().unwrap()["ok"], true);
    }
    let named = ours.server("kubernetes", false, ok);
    let sni = json!({"certificate-authority": "ca.crt", "tls-server-name": "kubernetes"});
    assert!(ask(&named, tmp.path(), sni, &none).is_ok());
    let stranger = other.server("127.0.0.1", false, ok);
    for (fake, why) in [(&named, "not valid for name"), (&stranger, "UnknownIssuer")] {
        let failure = ask(fake, tmp.path(), by_file.clone(), &none).unwrap_err();
        assert!(failure.code == Code::ApiUnreachable && failure.msg.contains("certificate"), "{why}: {failure}");
        assert!(failure.msg.contains(why), "{failure}");
    }
    assert!(stranger.lines().is_empty());
}

#[test]
fn client_certificates_by_file_and_by_data() {
    let tmp = tempfile::tempdir().unwrap();
    let ca = Authority::new("ca");
    let fake = ca.server("127.0.0.1", true, ok);
    let (certificate, key) = ca.sign("node");
    fs::write(tmp.path().join("c.crt"), certificate.pem()).unwrap();
    fs::write(tmp.path().join("c.key"), key.serialize_pem()).unwrap();
    let cluster = json!({"certificate-authority-data": base64(&ca.pem())});
    let by_file = json!({"client-certificate": "c.crt", "client-key": "c.key"});
    let by_data = json!({"client-certificate-data": base64(&certificate.pem()),
        "client-key-data": base64(&key.serialize_pem())});
    for user in [by_file, by_data] {
        assert!(ask(&fake, tmp.path(), cluster.clone(), &user).unwrap().is_some());
    }
    let failure = ask(&fake, tmp.path(), cluster.clone(), &json!({})).unwrap_err();
    assert_eq!(failure.code, Code::ApiUnreachable, "{failure}");
    let half = ask(&fake, tmp.path(), cluster, &json!({"client-certificate": "gone", "client-key": "c.key"}));
    let failure = half.unwrap_err();
    assert!(failure.code == Code::Kubeconfig && failure.msg.contains("gone"), "{failure}");
}

#[test]
fn tokens_by_value_by_file_by_program_and_by_name() {
    let tmp = tempfile::tempdir().unwrap();
    let ca = Authority::new("ca");
    let fake = ca.server("127.0.0.1", false, ok);
    let cluster = json!({"certificate-authority-data": base64(&ca.pem())});
    fs::write(tmp.path().join("token"), "of-file\n").unwrap();
    let program = "echo '{\"kind\": \"ExecCredential\", \"apiVersion\": \"client.authentication.k8s.io/v1\", \
        \"status\": {\"token\": \"of-program\"}}'";
    let exec = json!({"apiVersion": "client.authentication.k8s.io/v1", "command": "sh", "args": ["-c", program]});
    for (user, header) in [
        (json!({"token": "inline"}), "Bearer inline"),
        (json!({"tokenFile": "token"}), "Bearer of-file"),
        (json!({"exec": exec}), "Bearer of-program"),
        (json!({"username": "u", "password": "p"}), "Basic dTpw"),
    ] {
        assert!(ask(&fake, tmp.path(), cluster.clone(), &user).unwrap().is_some(), "{header}");
        assert_eq!(fake.seen().last().unwrap().headers["authorization"], header);
    }
    for (user, part) in [
        (json!({"tokenFile": "gone"}), "gone"),
        (json!({"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "/nonexistent/x"}}), "auth exec"),
    ] {
        let failure = ask(&fake, tmp.path(), cluster.clone(), &user).unwrap_err();
        assert!(failure.code == Code::Kubeconfig && failure.msg.contains(part), "{failure}");
    }
}

#[test]
fn a_program_that_hangs_does_not_hang_the_call() {
    let tmp = tempfile::tempdir().unwrap();
    let ca = Authority::new("ca");
    let fake = ca.server("127.0.0.1", false, ok);
    let exec = json!({"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "sleep", "args": ["9"]}});
    let began = std::time::Instant::now();
    let cluster = json!({"certificate-authority-data": base64(&ca.pem())});
    let failure = ask(&fake, tmp.path(), cluster, &exec).unwrap_err();
    assert_eq!(failure.code, Code::ApiUnreachable);
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
}

#[test]
fn a_token_file_is_read_again_for_each_request() {
    let tmp = tempfile::tempdir().unwrap();
    let ca = Authority::new("ca");
    let fake = ca.server("127.0.0.1", false, ok);
    let cluster =
        json!({"certificate-authority-data": base64(&ca.pem()), "server": format!("https://{}", fake.address)});
    let api =
        testing::api(&testing::kubeconfig(tmp.path(), &cluster, &json!({"tokenFile": "token"})), Limits::new(None));
    block_on(async {
        for token in ["one", "two"] {
            fs::write(tmp.path().join("token"), token).unwrap();
            api.get_pod("prod", "web").await.unwrap();
        }
    });
    let headers: Vec<_> = fake.seen().iter().map(|s| s.headers["authorization"].clone()).collect();
    assert_eq!(headers, ["Bearer one", "Bearer two"]);
    assert_eq!(fake.seen()[1].connection, 0);
}

/// RFC 4648 with padding.
fn base64(text: &str) -> String {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for chunk in text.as_bytes().chunks(3) {
        let n = chunk.iter().fold(0u32, |n, b| n << 8 | u32::from(*b)) << (8 * (3 - chunk.len()));
        for i in 0..4 {
            let letter = LETTERS[(n >> (18 - 6 * i) & 63) as usize];
            out.push(if i > chunk.len() { '=' } else { char::from(letter) });
        }
    }
    out
}
