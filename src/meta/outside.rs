//! Whom the meta plugin asks and tells outside this call: pod facts and NADs (`resolve`), devices (`devices`), status
//! and Events (`api`). The one file of this room that calls them.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::annotation::{self, StatusEntry};
use crate::api::{Api, Event, Limits, On, Told};
use crate::attach::{self, dhcp::Unkept};
use crate::cni::Call;
use crate::devices::{self, Devices, Objects, Places};
use crate::nad::Nad;
use crate::protocol::{Complaint, Name, Note, Untold};
use crate::resolve::{Pod, Sources, Wish, pod_facts};
use crate::store::{Dirs, NodeConfig, Pending};
use crate::types::{Code, ContainerId, Failure, IfName, Outcome, PodRef};

use super::Env;
use super::config::{Cluster, MetaConf};

const COMPONENT: &str = "trestle";

/// The API server, if a kubeconfig or the environment names one. Nothing is sent yet.
pub fn open(conf: &MetaConf, node: &NodeConfig, env: Env<'_>) -> Outcome<Option<Api>> {
    Api::open(conf.kubeconfig.as_deref(), env, Limits::new(node.api_timeout))
}

pub struct World<'a> {
    call: &'a Call,
    dirs: &'a Dirs,
    api: Option<&'a Api>,
    sources: Sources<'a>,
    places: Places,
    /// Each NAD is asked for once.
    nads: RefCell<BTreeMap<(String, String), Nad>>,
}

impl<'a> World<'a> {
    pub fn new(call: &'a Call, dirs: &'a Dirs, api: Option<&'a Api>) -> Self {
        let sources = Sources::new(call, dirs, api);
        Self { call, dirs, api, sources, places: Places::default(), nads: RefCell::default() }
    }

    /// Where nobody is configured whom to ask, inline delegates are all there is, as with Multus. Otherwise, and on a
    /// node that has an agent, a pod whose wishes are not known must not start.
    pub async fn pod(&self, conf: &MetaConf) -> Outcome<Pod> {
        let nobody = || matches!(conf.cluster, Cluster::Inline(_)) && !self.sources.agent().is_expected();
        let pod = match self.sources.pod(&wish(conf)).await {
            Err(e) if e.code == Code::NoSource && nobody() => {
                tracing::warn!("nobody tells what the pod asks for: only the delegates are attached");
                Ok(Pod { facts: pod_facts(self.call)?, ..Pod::default() })
            }
            other => other,
        };
        let mut pod = pod?;
        if pod.facts.needs_nics() {
            pod.facts.nics = self.sources.nics(&pod).await?;
        }
        Ok(pod)
    }

    pub async fn nad(&self, namespace: &str, name: &str) -> Outcome<Nad> {
        let key = (namespace.to_owned(), name.to_owned());
        let known = self.nads.borrow().get(&key).cloned();
        if let Some(nad) = known {
            return Ok(nad);
        }
        let nad = self.sources.nad(namespace, name).await?;
        self.nads.borrow_mut().insert(key, nad.clone());
        Ok(nad)
    }

    pub fn claims<'p>(&self, pod: &'p Pod) -> Option<Claims<'a, 'p>> {
        self.api.map(|api| Claims { api, pod: pod.object.as_ref() })
    }

    /// All networks of the pod draw from one supply, which is not asked for before one needs it.
    pub fn devices<'d>(
        &'d self,
        pod: Option<&'d PodRef>,
        claims: Option<&'d Claims<'a, 'd>>,
    ) -> Option<Devices<'d, Claims<'a, 'd>>> {
        pod.map(|pod| Devices::new(pod, &self.places, claims))
    }

    /// One patch, by the agent if it is there. A pod that is gone, or has been replaced, needs no status and is no failure.
    /// `notes` go the same way, and count for less.
    pub async fn tell(&self, pod: &Pod, entries: &[StatusEntry], notes: &[Note]) -> Outcome<()> {
        let Some(about) = &pod.known else { return Ok(()) };
        // Results of versions before 0.3.0 name no interface. Nothing is not told, as with Multus.
        if entries.is_empty() {
            return Ok(());
        }
        let text = annotation::status_text(entries);
        let agent = self.sources.agent();
        if agent.is_there() {
            self.put_down(about, &text, notes)?;
            // One that went away since finds it when it is back.
            agent.untold().await;
            return Ok(());
        }
        if !self.sources.stale().is_empty() {
            return self.keep_untold(about, &text, notes);
        }
        let Some(api) = self.api else {
            return if agent.is_expected() { self.put_down(about, &text, notes) } else { Ok(()) };
        };
        match api.patch_annotation(about, annotation::STATUS, &text).await? {
            Told::Done => {
                for note in notes {
                    self.event(about, &note.reason, &note.message).await;
                }
            }
            told @ (Told::Gone | Told::Replaced) => {
                tracing::warn!(?told, "no status written: not this pod any more");
            }
        }
        Ok(())
    }

    /// The pod's networks came from copies, because the API server does not answer: asked again, it would use up the
    /// call's time. The status is put down for the agent, until the pod goes.
    fn keep_untold(&self, pod: &PodRef, text: &str, notes: &[Note]) -> Outcome<()> {
        tracing::warn!(%pod, "the network-status is not told yet: the API server does not answer");
        self.put_down(pod, text, notes)
    }

    /// Whether the status of each pod is put down on disk.
    pub async fn leaves_statuses(&self) -> bool {
        let agent = self.sources.agent();
        agent.is_expected() && (self.api.is_none() || agent.answers().await)
    }

    /// For the agent.
    fn put_down(&self, pod: &PodRef, text: &str, notes: &[Note]) -> Outcome<()> {
        let (Some(container), Some(ifname)) = (&self.call.container, &self.call.ifname) else { return Ok(()) };
        let (stale, notes) = (self.sources.stale(), notes.to_vec());
        let kept = Untold { version: 1, pod: pod.clone(), status: text.into(), stale, notes };
        Pending::untold(self.dirs).note(container, ifname, &kept)
    }

    /// A macvlan in a bridge's place serves, but not as people may think.
    pub fn fallback(&self, network: &str, ifname: &IfName) -> Option<Note> {
        let told = attach::fallback(self.dirs, self.call.container.as_ref()?, ifname).unwrap_or_else(|failure| {
            tracing::warn!(%failure, "whether it is a macvlan in a bridge's place is not told");
            None
        });
        Some(Note { reason: "MacvlanFallback".into(), message: format!("{network} on {ifname}: {}", told?) })
    }

    /// The leases of these interfaces that end because nobody keeps them. Where there is an agent that is its own to know; one
    /// that comes later tells how long each had none.
    pub async fn warn_of_leases(&self, pod: &Pod, ifnames: impl Iterator<Item = &IfName>) {
        let (Some(about), Some(container)) = (&pod.known, &self.call.container) else { return };
        if self.api.is_none() || self.sources.agent().is_there() || !self.sources.stale().is_empty() {
            return;
        }
        for ifname in ifnames {
            match Unkept::find(self.dirs, container, ifname) {
                Ok(None) => {}
                Ok(Some(unkept)) => self.event(about, "LeaseUnkept", &unkept.to_string()).await,
                Err(failure) => tracing::warn!(%failure, "whether the lease has a keeper is not known"),
            }
        }
    }

    /// A refusal or failure, onto the pod. It must not hide its own cause.
    pub async fn complain(&self, pod: Option<&PodRef>, failure: &Failure) {
        let Some(about) = pod else { return };
        if matches!(failure.code, Code::ApiUnreachable | Code::ApiRefused | Code::PodMissing | Code::PodReplaced) {
            return;
        }
        // The name that Multus gives the one kind of which it speaks.
        let reason = if failure.code == Code::NadMissing { "NoNetworkFound" } else { "NetworkNotAttached" };
        self.event(about, reason, &failure.to_string()).await;
    }

    /// Best effort.
    async fn event(&self, about: &PodRef, reason: &str, message: &str) {
        let complaint = Complaint { pod: about.clone(), reason: reason.into(), message: message.into() };
        if self.sources.agent().complain(complaint).await {
            return;
        }
        let Some(api) = self.api else { return };
        let event = Event { about, on: On::Pod, reason, message, warning: true, component: COMPONENT, once: false };
        if let Err(failure) = api.event(&event).await {
            tracing::warn!(%failure, "the Event is lost");
        }
    }
}

/// The API server, as `devices` asks it; a pod that has been read is not read again.
pub struct Claims<'a, 'p> {
    api: &'a Api,
    pod: Option<&'p Value>,
}

impl Objects for Claims<'_, '_> {
    async fn pod(&self, pod: &PodRef) -> Outcome<Option<Value>> {
        match self.pod {
            Some(known) => Ok(Some(known.clone())),
            None => self.api.get_pod(&pod.namespace, &pod.name).await,
        }
    }

    async fn claim(&self, namespace: &str, name: &str) -> Outcome<Option<Value>> {
        self.api.get_claim(namespace, name).await
    }

    async fn slices(&self, node: &str, driver: &str) -> Outcome<Vec<Value>> {
        self.api.list_slices(node, driver).await
    }
}

/// What the configuration names that may be a NAD.
fn wish(conf: &MetaConf) -> Wish {
    let home = conf.multus_namespace.clone();
    let named = match &conf.cluster {
        Cluster::Inline(_) => Vec::new(),
        Cluster::Named { default, more } => std::iter::once(default).chain(more).collect(),
    };
    let bare = named.into_iter().filter(|name| !name.contains('/'));
    let also = bare.map(|name| Name { namespace: home.clone(), name: name.clone() }).collect();
    Wish { home, also }
}

/// Where a network's plugins find, and leave, what is known of its device.
pub fn info_file(network: &str, container: &ContainerId, ifname: &IfName) -> PathBuf {
    Places::default().info_file(network, container, ifname)
}

/// The device plugin's words for the CNI plugin. As with Multus, nothing hangs on them.
pub fn hand_over_info(resource: &str, device: &str, to: &Path) {
    if let Err(failure) = Places::default().copy_info(resource, device, to) {
        tracing::warn!(%failure, "what is known of the device is not handed over");
    }
}

pub fn read_info(file: &Path) -> Option<Value> {
    devices::device_info(file).unwrap_or_else(|failure| {
        tracing::warn!(%failure, "the device is not shown in the status");
        None
    })
}

pub fn remove_info(file: &Path) {
    if let Err(failure) = devices::forget_info(file) {
        tracing::warn!(%failure, "left where it is");
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::os::unix::net::UnixListener;
    use std::sync::mpsc::{Receiver, channel};
    use std::time::Duration;

    use serde_json::json;

    use super::*;
    use crate::api::testing::{Fake, Reply, short};
    use crate::attach::dhcp::testing::record;
    use crate::net::testing::block_on;
    use crate::plan::testing::call;
    use crate::protocol::{self, Ask, Found, Is, Say, Told};
    use crate::store::{Leases, Sole};

    const ARGS: &str = "K8S_POD_NAMESPACE=prod;K8S_POD_NAME=web;K8S_POD_UID=u1";

    /// An agent that knows one pod; or says this one word to each connection, and hangs up.
    fn agent(dirs: &Dirs, says: Option<&'static str>) -> Receiver<Ask> {
        std::fs::create_dir_all(&dirs.run).unwrap();
        let listener = UnixListener::bind(protocol::socket(dirs)).unwrap();
        let (heard, asks) = channel();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.unwrap();
                if let Some(word) = says {
                    let _ = (&stream).write_all(word.as_bytes());
                    std::thread::sleep(Duration::from_millis(if word.is_empty() { 400 } else { 0 }));
                    continue;
                }
                for line in BufReader::new(&stream).lines() {
                    let ask: Ask = protocol::read(line.unwrap().as_bytes()).unwrap();
                    if let Ask::Pod(ask) = &ask {
                        (&stream).write_all(&protocol::line(Say::Wait(3000))).unwrap();
                        let missing = Failure::new(Code::NadMissing, "not there");
                        let is = |name: &Name| Found { name: name.clone(), is: Is::Error((&missing).into()) };
                        let networks = ask.also.iter().map(is).collect();
                        let told = Told { pod: ask.pod.clone(), annotations: BTreeMap::new(), vmi: None, networks };
                        (&stream).write_all(&protocol::line(Say::Pod(told))).unwrap();
                    }
                    if heard.send(ask).is_err() {
                        return;
                    }
                }
            }
        });
        asks
    }

    fn dirs(tmp: &tempfile::TempDir) -> Dirs {
        Dirs::new(tmp.path().join("run"), tmp.path().join("state"))
    }

    fn conf() -> MetaConf {
        super::super::config::read(&call(&json!({"name": "m", "clusterNetwork": "cbr"}), ARGS)).unwrap()
    }

    fn status() -> Vec<StatusEntry> {
        vec![StatusEntry { name: "cbr".into(), ..StatusEntry::default() }]
    }

    fn server(seen: &str) -> Fake {
        let object =
            json!({"metadata": {"namespace": "prod", "name": "web", "uid": "u1", "annotations": {"by": seen}}});
        Fake::new(move |_| Reply::Json(200, object.clone()))
    }

    #[test]
    fn with_an_agent_nothing_is_sent_to_the_api_server() {
        let tmp = tempfile::tempdir().unwrap();
        let (dirs, fake) = (dirs(&tmp), server("api"));
        let (api, asks) = (fake.api(tmp.path(), short()), agent(&dirs, None));
        let call = call(&json!({"name": "m", "clusterNetwork": "cbr"}), ARGS);
        block_on(async {
            let world = World::new(&call, &dirs, Some(&api));
            let pod = world.pod(&conf()).await.unwrap();
            assert_eq!(pod.known.as_ref().unwrap().uid.as_deref(), Some("u1"));
            assert_eq!(world.nad("kube-system", "cbr").await.unwrap_err().code, Code::NadMissing, "told with the pod");
            world.tell(&pod, &status(), &[]).await.unwrap();
            let failure = Failure::new(Code::BridgeMissing, "no bridge");
            world.complain(pod.known.as_ref(), &failure).await;
        });
        let said: Vec<Ask> = (0..3).map(|_| asks.recv_timeout(Duration::from_secs(5)).unwrap()).collect();
        assert!(matches!(&said[0], Ask::Pod(p) if p.home == "kube-system" && p.also[0].name == "cbr"), "{said:?}");
        assert_eq!(said[1], Ask::Untold {});
        assert!(matches!(&said[2], Ask::Event(c) if c.message.contains("no bridge") && c.pod.name == "web"));
        assert!(fake.seen().is_empty(), "{:?}", fake.lines());
        let untold = Pending::untold(&dirs).all::<Untold>().unwrap().remove(0).unwrap();
        assert!(untold.pod.uid.as_deref() == Some("u1") && untold.status.contains("cbr") && untold.stale.is_empty());
    }

    #[test]
    fn what_is_no_agent_is_passed_over() {
        for word in [
            "",
            "garbage\n",
            "{\"v\":2,\"wait\":1}\n",
            "{\"v\":1,\"wait\":1}\n{\"v\":1,\"wait\":1}\n",
            "{\"v\":1,\"pod\":",
        ] {
            let tmp = tempfile::tempdir().unwrap();
            let (dirs, fake) = (dirs(&tmp), server("api"));
            let (api, _asks) = (fake.api(tmp.path(), short()), agent(&dirs, Some(word)));
            let call = call(&json!({"name": "m", "clusterNetwork": "cbr"}), ARGS);
            let began = std::time::Instant::now();
            block_on(async {
                let world = World::new(&call, &dirs, Some(&api));
                let pod = world.pod(&conf()).await.unwrap();
                assert_eq!(pod.facts.annotations.as_ref().unwrap()["by"], "api", "{word:?}");
                world.tell(&pod, &status(), &[]).await.unwrap();
            });
            assert!(began.elapsed() < Duration::from_secs(3), "{word:?}: {:?}", began.elapsed());
            assert!(fake.lines().last().unwrap().starts_with("PATCH "), "{word:?}: {:?}", fake.lines());
        }
    }

    #[test]
    fn notes_go_the_way_of_the_status() {
        let note = Note { reason: "MacvlanFallback".into(), message: "net on net1: no bridge".into() };
        let tell = |dirs: &Dirs, api: Option<&Api>| {
            let call = call(&json!({"name": "m", "clusterNetwork": "cbr"}), ARGS);
            block_on(async {
                let world = World::new(&call, dirs, api);
                let pod = world.pod(&conf()).await.unwrap();
                world.tell(&pod, &status(), std::slice::from_ref(&note)).await.unwrap();
            });
        };
        let tmp = tempfile::tempdir().unwrap();
        let (dirs, fake) = (dirs(&tmp), server("api"));
        let api = fake.api(tmp.path(), short());
        tell(&dirs, Some(&api));
        let lines = fake.lines();
        assert!(lines[1].starts_with("PATCH ") && lines[2] == "POST /api/v1/namespaces/prod/events", "{lines:?}");
        let event = fake.seen()[2].json();
        assert_eq!((&event["reason"], &event["type"]), (&json!("MacvlanFallback"), &json!("Warning")));
        assert_eq!(event["message"], "net on net1: no bridge");
        let asks = agent(&dirs, None);
        tell(&dirs, Some(&api));
        let untold = Pending::untold(&dirs).all::<Untold>().unwrap().remove(0).unwrap();
        assert_eq!((untold.notes, fake.lines().len()), (vec![note], 3), "the plugin writes once, onto the disk");
        drop(asks);
    }

    #[test]
    fn a_lease_without_a_keeper_is_told_once_where_no_agent_is() {
        let tmp = tempfile::tempdir().unwrap();
        let (dirs, fake) = (dirs(&tmp), server("api"));
        let api = fake.api(tmp.path(), short());
        let call = call(&json!({"name": "m", "clusterNetwork": "cbr"}), ARGS);
        let lease = record(&dirs, 3600);
        Leases::new(&dirs).write(&lease).unwrap();
        let warn = |api| {
            block_on(async {
                let world = World::new(&call, &dirs, api);
                let facts = pod_facts(&call).unwrap();
                let pod = Pod { known: facts.pod.clone(), facts, ..Pod::default() };
                let other = "net2".parse().unwrap();
                world.warn_of_leases(&pod, [&lease.ifname, &other].into_iter()).await;
            });
        };
        warn(Some(&api));
        assert_eq!(fake.lines(), ["POST /api/v1/namespaces/prod/events"], "net2 has no lease");
        let event = fake.seen()[0].json();
        assert_eq!((&event["reason"], &event["involvedObject"]["name"]), (&json!("LeaseUnkept"), &json!("web")));
        let message = event["message"].as_str().unwrap();
        assert!(message.starts_with("net1 of network lan: lease without keeper until "), "{message}");

        warn(None);
        let keeper = Sole::try_take(&dirs, Sole::KEEPER).unwrap();
        warn(Some(&api));
        drop(keeper);
        assert_eq!(fake.lines().len(), 1, "nobody to tell it to, or nothing to tell");
    }

    #[test]
    fn where_an_agent_is_it_knows_its_leases() {
        let tmp = tempfile::tempdir().unwrap();
        let (dirs, fake) = (dirs(&tmp), server("api"));
        let (api, asks) = (fake.api(tmp.path(), short()), agent(&dirs, None));
        let call = call(&json!({"name": "m", "clusterNetwork": "cbr"}), ARGS);
        let lease = record(&dirs, 3600);
        Leases::new(&dirs).write(&lease).unwrap();
        block_on(async {
            let world = World::new(&call, &dirs, Some(&api));
            let pod = world.pod(&conf()).await.unwrap();
            world.warn_of_leases(&pod, std::iter::once(&lease.ifname)).await;
            world.tell(&pod, &status(), &[]).await.unwrap();
        });
        let said: Vec<Ask> = (0..2).map(|_| asks.recv_timeout(Duration::from_secs(5)).unwrap()).collect();
        assert!(matches!(&said[0], Ask::Pod(_)) && said[1] == Ask::Untold {}, "{said:?}");
        assert!(fake.seen().is_empty(), "{:?}", fake.lines());
    }

    #[test]
    fn a_node_that_has_an_agent_wires_no_pod_by_halves() {
        let call = call(&json!({"name": "m", "delegates": [{"name": "d0", "type": "bridge"}]}), ARGS);
        let conf = super::super::config::read(&call).unwrap();
        type Prepare<'a> = &'a dyn Fn(&Dirs);
        let pod = |prepare: Prepare<'_>| {
            let tmp = tempfile::tempdir().unwrap();
            let dirs = dirs(&tmp);
            prepare(&dirs);
            block_on(World::new(&call, &dirs, None).pod(&conf))
        };
        let alone = pod(&|_| ()).unwrap();
        assert!(alone.known.is_none() && alone.facts.annotations.is_none(), "as Multus without a kubeconfig");
        let gone = |dirs: &Dirs| crate::resolve::testing::agent(dirs, None);
        let silent = |dirs: &Dirs| drop(agent(dirs, Some("")));
        let garbage = |dirs: &Dirs| drop(agent(dirs, Some("garbage\n")));
        let since_the_boot = |dirs: &Dirs| {
            std::fs::create_dir_all(&dirs.state).unwrap();
            std::fs::write(protocol::mark(dirs), "").unwrap();
        };
        let ways: [(&str, Prepare<'_>); 4] =
            [("gone", &gone), ("silent", &silent), ("garbage", &garbage), ("not begun", &since_the_boot)];
        for (which, prepare) in ways {
            let failure = pod(prepare).expect_err(which);
            assert_eq!((failure.code, failure.code.cni()), (Code::NoSource, 11), "{which}: {failure}");
            assert!(failure.msg.contains("prod/web") && failure.msg.contains("the agent of this node"), "{failure}");
        }
    }

    #[test]
    fn where_an_agent_was_the_status_waits_for_it() {
        let tmp = tempfile::tempdir().unwrap();
        let dirs = dirs(&tmp);
        let call = call(
            &json!({"name": "m", "clusterNetwork": "cbr", "runtimeConfig": {"io.kubernetes.cri.pod-annotations": {}}}),
            ARGS,
        );
        let tell = || {
            block_on(async {
                let world = World::new(&call, &dirs, None);
                let pod = world.pod(&conf()).await.unwrap();
                world.tell(&pod, &status(), &[]).await.unwrap();
            });
            Pending::untold(&dirs).all::<Untold>().unwrap().len()
        };
        assert_eq!(tell(), 0, "nobody would ever tell it");
        std::fs::create_dir_all(&dirs.run).unwrap();
        // As an agent leaves it that is gone.
        drop(UnixListener::bind(protocol::socket(&dirs)).unwrap());
        assert_eq!(tell(), 1);
    }
}
