//! What a keeper does with a lease, one exchange at a time.

use serde_json::json;

use super::server::both_servers;
use super::{Lends, Program, Server, address, exchange, plain, records};
use crate::harness::Lab;

both_servers! {
    fn a_renewal_gives_the_address_its_time_again(program: Program) {
        let (lab, _lan, _server) = Server::with_lan(program, &Lends { seconds: 120, ..Lends::default() });
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

    fn an_address_that_ran_out_comes_back_with_its_routes(program: Program) {
        let (lab, _lan, _server) = Server::with_lan(program, &Lends::default());
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

    fn routes_and_mtu_follow_what_the_server_says(program: Program) {
        let (lab, lan) = Lab::with_lan();
        let says = |mtu: Option<u16>, routes: &[u8]| {
            let lends = Lends::default().option(121, routes);
            let lends = mtu.map_or(lends.clone(), |mtu| lends.option(26, mtu.to_be_bytes()));
            Server::of(program, &lab, &lan, &lends)
        };
        let (by_1, by_9) = ([0, 198, 51, 100, 1], [0, 198, 51, 100, 9, 8, 10, 198, 51, 100, 8]);
        let server = says(Some(1400), &by_1);
        let pod = lab.pod();
        plain(&lab, &pod).add();
        let mut job = records(&lab)[0]["job"].clone();
        assert_eq!((&job["follows"], pod.link("net1").mtu), (&json!({"most": 1500, "mtu": 1400}), 1400));
        job["step"] = json!("First");
        drop(server);
        let server = says(Some(1200), &by_9);
        assert_eq!(exchange(&lab, &job)["Bound"]["address"], "198.51.100.10");
        let routes = pod.run("ip route");
        assert!(routes.contains("default via 198.51.100.9") && routes.contains("10.0.0.0/8 via 198.51.100.8"), "{routes}");
        assert!(!routes.contains("via 198.51.100.1 "), "{routes}");
        assert_eq!(pod.link("net1").mtu, 1200);
        drop(server);
        // None is said any more; but a smaller one than was given is somebody else's.
        let _server = says(None, &by_1);
        exchange(&lab, &job);
        assert_eq!(pod.link("net1").mtu, 1200);
        job["follows"]["mtu"] = json!(1200);
        exchange(&lab, &job);
        assert_eq!(pod.link("net1").mtu, 1500);
    }

    fn a_server_that_says_no_is_heard(program: Program) {
        let (lab, lan, server) = Server::with_lan(program, &Lends::default());
        let pod = lab.pod();
        plain(&lab, &pod).add();
        let mut job = records(&lab)[0]["job"].clone();
        drop(server);
        let _other = Server::of(program, &lab, &lan, &Lends::default().pool(30, 40));
        // To a client of which it has no record Kea says nothing (RFC 2131, 4.3.2); nor to a renewal of what it has not lent.
        let renewal = (program == Program::Dnsmasq).then(|| job["step"].clone());
        job["step"] = json!("First");
        assert_eq!(exchange(&lab, &job)["Bound"]["address"], "198.51.100.30");
        for step in [json!({"Reboot": "198.51.100.10"})].into_iter().chain(renewal) {
            job["step"] = step;
            let answer = exchange(&lab, &job);
            assert!(answer["Refused"].as_str().is_some_and(|why| why.contains("198.51.100.1")), "{answer}");
        }
    }

    fn nobody_there_and_nothing_there(program: Program) {
        let (lab, _lan, server) = Server::with_lan(program, &Lends::default());
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
}
