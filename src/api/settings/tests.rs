//! Kubeconfigs as people have them.

use std::collections::HashMap;
use std::fs;

use serde_json::{Value, json};

use super::*;
use crate::api::testing::kubeconfig;

fn env(pairs: &[(&str, &str)]) -> impl Fn(&str) -> Option<OsString> + use<> {
    let map: HashMap<String, OsString> = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).into())).collect();
    move |key| map.get(key).cloned()
}

fn of(cluster: &Value, user: &Value, variables: &[(&str, &str)]) -> Outcome<Settings> {
    let tmp = tempfile::tempdir().unwrap();
    fs::write(tmp.path().join("token"), "from file\n").unwrap();
    Settings::find(Some(&kubeconfig(tmp.path(), cluster, user)), &env(variables)).map(Option::unwrap)
}

fn server(text: &str) -> Value {
    json!({"server": text})
}

#[test]
fn where_the_server_is() {
    for (cluster, url, plain) in [
        (server("https://10.0.0.1:6443"), "https://10.0.0.1:6443", false),
        (server("http://[::1]:8080/"), "http://[::1]:8080", true),
        (server("10.0.0.1:8080"), "http://10.0.0.1:8080", true),
        (server("https://rancher.example/k8s/clusters/c-1"), "https://rancher.example/k8s/clusters/c-1", false),
        (json!({"server": "cp.example:6443", "insecure-skip-tls-verify": true}), "https://cp.example:6443", false),
    ] {
        let found = of(&cluster, &json!({}), &[]).unwrap();
        assert_eq!((found.server().as_str(), found.plain), (url, plain));
    }
    let found = of(&server("cp.example"), &json!({"client-certificate": "x"}), &[]).unwrap();
    assert_eq!(found.server(), "https://cp.example");
}

#[test]
fn what_is_wrong_with_the_file_is_told_without_its_content() {
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("kubeconfig");
    let open = |text: &str| {
        fs::write(&path, text).unwrap();
        let failure = Settings::find(Some(&path), &|_| None).map(|_| ()).unwrap_err();
        assert_eq!(failure.code, Code::Kubeconfig);
        assert!(failure.msg.contains("kubeconfig"), "{failure}");
        failure.msg
    };
    let msg = open("users:\n- name: u\n  user: {token: s3cret\n bad");
    assert!(msg.contains("not the YAML of a kubeconfig at line") && !msg.contains("s3cret"), "{msg}");
    assert!(open("apiVersion: v1").contains("current context"));
    assert!(open("current-context: nope").contains("nope"));
    assert!(
        open(r#"{"current-context": "c", "contexts": [{"name": "c", "context": {"cluster": "k"}}]}"#).contains('k')
    );
    let failure = Settings::find(Some(Path::new("/nonexistent/kubeconfig")), &|_| None).map(|_| ()).unwrap_err();
    assert!(failure.code == Code::Kubeconfig && failure.msg.contains("/nonexistent/kubeconfig"), "{failure}");
    let failure = of(&json!({"server": "https://h", "certificate-authority": "none.crt"}), &json!({}), &[]).map(|_| ());
    assert!(failure.unwrap_err().msg.contains("none.crt"));
}

#[test]
fn no_credentials_go_over_plain_http() {
    for user in [json!({"token": "t"}), json!({"tokenFile": "token"}), json!({"username": "u", "password": "p"})] {
        let found = of(&server("http://10.0.0.1"), &user, &[]).unwrap();
        assert!(found.unsent_credentials && found.token_file.is_none() && !has_credentials(&found.config.auth_info));
    }
    assert!(!of(&server("http://10.0.0.1"), &json!({}), &[]).unwrap().unsent_credentials);
}

#[test]
fn a_token_file_beats_a_token_and_is_found_beside_the_kubeconfig() {
    let found = of(&server("https://h"), &json!({"token": "t", "tokenFile": "token"}), &[]).unwrap();
    assert!(found.token_file.unwrap().ends_with("token") && found.config.auth_info.token.is_none());
    let found = of(&server("https://h"), &json!({"token": "t", "tokenFile": "gone"}), &[]).unwrap();
    assert!(found.token_file.is_none() && found.config.auth_info.token.is_some());
    let found = of(&server("https://h"), &json!({"tokenFile": "gone"}), &[]).unwrap();
    assert!(found.token_file.is_some(), "it may be there by the time of the first request");
}

#[test]
fn a_program_for_credentials_asks_nobody() {
    let exec = json!({"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "x"}});
    let found = of(&server("https://h"), &exec, &[]).unwrap();
    assert!(found.runs_a_program());
    assert_eq!(found.config.auth_info.exec.unwrap().interactive_mode, Some(ExecInteractiveMode::Never));
}

#[test]
fn proxies() {
    let by = |cluster: Value, variables: &[(&str, &str)]| {
        of(&cluster, &json!({}), variables).map(|s| s.proxy.map(|p| p.uri().to_string()))
    };
    let named = json!({"server": "https://10.0.0.1", "proxy-url": "http://proxy:3128"});
    let open = server("https://10.0.0.1");
    assert_eq!(by(named.clone(), &[("NO_PROXY", "*")]).unwrap().as_deref(), Some("http://proxy:3128/"));
    assert_eq!(by(open.clone(), &[("https_proxy", "http://p:1")]).unwrap().as_deref(), Some("http://p:1/"));
    assert_eq!(by(open.clone(), &[("HTTPS_PROXY", "http://p:1"), ("NO_PROXY", "10.0.0.0/8")]).unwrap(), None);
    assert_eq!(by(server("https://127.0.0.1:6443"), &[("HTTPS_PROXY", "http://p:1")]).unwrap(), None);
    assert_eq!(by(server("http://10.0.0.1"), &[("HTTPS_PROXY", "http://p:1")]).unwrap(), None);
    assert_eq!(by(open, &[]).unwrap(), None);
    let socks = by(json!({"server": "https://10.0.0.1", "proxy-url": "socks5://p:1"}), &[]).unwrap_err();
    assert!(socks.code == Code::Kubeconfig && socks.msg.contains("socks5://p:1"), "{socks}");
}

#[test]
fn a_pods_own_account() {
    let both = [("KUBERNETES_SERVICE_HOST", "fd00::1"), ("KUBERNETES_SERVICE_PORT", "443")];
    let tmp = tempfile::tempdir().unwrap();
    let certificate = rcgen::generate_simple_self_signed(["x".to_owned()]).unwrap().cert.pem();
    fs::write(tmp.path().join("ca.crt"), certificate).unwrap();
    let found = Settings::of_pod(&env(&both), tmp.path()).unwrap().unwrap();
    assert_eq!(found.server(), "https://[fd00::1]:443");
    assert_eq!(found.token_file.unwrap(), tmp.path().join("token"));
    assert_eq!(found.config.root_cert.unwrap().len(), 1);
    for some in [&both[..1], &both[1..], &[]] {
        assert!(Settings::find(None, &env(some)).unwrap().is_none());
    }
    let empty = Settings::of_pod(&env(&both), Path::new("/nonexistent")).map(|_| ()).unwrap_err();
    assert!(empty.msg.contains("/nonexistent"), "{empty}");
}

#[test]
fn people_see_no_password() {
    for (url, want) in [
        ("https://bob:s3cret@proxy:3128", "https://proxy:3128"),
        ("https://a@b@host/x@y", "https://host/x@y"),
        ("http://10.0.0.1:6443/p", "http://10.0.0.1:6443/p"),
        ("bob:s3cret@proxy", "proxy"),
        ("", ""),
    ] {
        assert_eq!(shown(url), want);
    }
}
