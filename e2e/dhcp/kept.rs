//! What a keeper does with a lease, one exchange at a time.

use serde_json::json;

use super::{Server, address, exchange, plain, records};
use crate::harness::Lab;

#[test]
fn a_renewal_gives_the_address_its_time_again() {
    let (lab, lan) = Lab::with_lan();
    let _server = Server::again(&lab, &lan, "198.51.100.10,198.51.100.20,2m", &[]);
    let pod = lab.pod();
    plain(&lab, &pod).add();
    for kind in ["Renew", "Rebind"] {
        pod.run("ip addr change 198.51.100.10/24 dev net1 valid_lft 9 preferred_lft 9");
        let mut job = records(&lab)[0]["job"].clone();
        job["step"] = json!({kind: job["step"]["Renew"]});
        let answer = exchange(&lab, &job);
        assert_eq!(answer["Bound"]["address"], "198.51.100.10", "{kind}: {answer}");
        let (_, seconds) = address(&pod, "net1").unwrap();
        assert!(seconds > 60, "{kind}: {seconds}");
    }
}

#[test]
fn an_address_that_ran_out_comes_back_with_its_routes() {
    let (lab, lan) = Lab::with_lan();
    let _server = Server::start(&lab, &lan, &[]);
    let pod = lab.pod();
    plain(&lab, &pod).add();
    let mut job = records(&lab)[0]["job"].clone();
    let lease = job["step"]["Renew"].clone();
    job["step"] = json!({"Drop": lease});
    assert_eq!(exchange(&lab, &job), "Silent");
    assert_eq!(address(&pod, "net1"), None);
    for step in [json!({"Reboot": "198.51.100.10"}), json!("First")] {
        pod.run("ip addr flush dev net1");
        job["step"] = step;
        assert_eq!(exchange(&lab, &job)["Bound"]["address"], "198.51.100.10");
        assert_eq!(address(&pod, "net1").unwrap().0, "198.51.100.10/24");
        assert!(pod.run("ip route").contains("default via 198.51.100.1 dev net1"));
    }
}

#[test]
fn a_server_that_says_no_is_heard() {
    let (lab, lan) = Lab::with_lan();
    let server = Server::start(&lab, &lan, &[]);
    let pod = lab.pod();
    plain(&lab, &pod).add();
    let mut job = records(&lab)[0]["job"].clone();
    drop(server);
    let _other = Server::again(&lab, &lan, "198.51.100.30,198.51.100.40,1h", &[]);
    for step in [json!({"Reboot": "198.51.100.10"}), job["step"].clone()] {
        job["step"] = step;
        let answer = exchange(&lab, &job);
        assert!(answer["Refused"].as_str().is_some_and(|why| why.contains("198.51.100.1")), "{answer}");
    }
}

#[test]
fn nobody_there_and_nothing_there() {
    let (lab, lan) = Lab::with_lan();
    let server = Server::start(&lab, &lan, &[]);
    let mut pod = lab.pod();
    plain(&lab, &pod).add();
    let mut job = records(&lab)[0]["job"].clone();
    drop(server);
    job["seconds"] = json!(1);
    assert_eq!(exchange(&lab, &job), "Silent");
    let other = lab.pod();
    job["netns"] = json!(other.netns());
    assert_eq!(exchange(&lab, &job), "Gone", "another namespace at the path");
    job["netns"] = json!(pod.netns());
    pod.run("ip link del net1");
    assert_eq!(exchange(&lab, &job), "Gone", "no link");
    pod.remove();
    assert_eq!(exchange(&lab, &job), "Gone", "no namespace");
}
