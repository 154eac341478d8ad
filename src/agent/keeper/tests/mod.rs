//! The keeper under a simulated clock, with a model of a server behind the exchange. Files are real.

mod trouble;

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

use super::*;
use crate::ipam::dhcp::{Follows, Identity, Lease, Step, Wish};
use crate::types::Mac;

pub fn lease(n: u16, seconds: u32) -> Lease {
    let [high, low] = n.to_be_bytes();
    let (t1, t2) = if seconds == Lease::FOR_EVER { (seconds, seconds) } else { (seconds / 2, seconds - seconds / 8) };
    Lease {
        address: Ipv4Addr::new(10, 0, high, low),
        prefix: 16,
        mask_given: true,
        server: Ipv4Addr::new(10, 0, 255, 254),
        routers: vec![],
        routes: vec![],
        dns: vec![],
        domain: None,
        search: vec![],
        mtu: None,
        hostname: None,
        seconds,
        t1,
        t2,
    }
}

pub fn job(n: u16) -> Job {
    let [high, low] = n.to_be_bytes();
    let hardware = Mac::new([2, 0, 0, 0, high, low]);
    let identity = Identity { hardware, client_id: vec![0, high, low], broadcast: false };
    let (ifname, netns) = ("net1".into(), "/proc/self/ns/net".into());
    let (wish, step) = (Wish::default(), Step::First);
    Job {
        netns,
        cookie: 1,
        index: 2,
        ifname,
        identity,
        wish,
        step,
        seconds: 1,
        routes: None,
        follows: None,
        priority: None,
        before: None,
    }
}

/// Tokio's paused clock, and on top what a node has slept.
#[derive(Clone)]
struct SimClock {
    begin: Instant,
    slept: Arc<AtomicU64>,
}

impl SimClock {
    fn sleep_through(&self, seconds: u64) {
        self.slept.fetch_add(seconds, Ordering::SeqCst);
    }
}

impl Clock for SimClock {
    fn now(&self) -> Duration {
        Duration::from_secs(1000 + self.slept.load(Ordering::SeqCst)) + self.begin.elapsed()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    First,
    Renew,
    Rebind,
    Reboot,
    Drop,
}

struct Model {
    seconds: u32,
    up: bool,
    /// Addresses that a question for them is refused.
    refused: HashSet<Ipv4Addr>,
    gone: HashSet<u16>,
    /// Those whose server is another one, and dead.
    dead: HashSet<u16>,
    leases: HashMap<u16, (Ipv4Addr, Duration)>,
    /// Next address for who has none.
    spare: u16,
    seen: Vec<(Duration, u16, Asked)>,
    /// Clients whose lease ran out before they asked for more.
    lapsed: Vec<u16>,
    running: usize,
    most: usize,
    mtu: Option<u16>,
}

#[derive(Clone)]
struct Server {
    model: Arc<Mutex<Model>>,
    clock: SimClock,
}

/// A child that is killed ends too.
struct Running<'a>(&'a Server);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.model().running -= 1;
    }
}

impl Server {
    fn model(&self) -> MutexGuard<'_, Model> {
        self.model.lock().unwrap()
    }

    fn seen(&self, n: u16) -> Vec<Asked> {
        self.model().seen.iter().filter(|(_, who, _)| *who == n).map(|(.., what)| *what).collect()
    }

    fn answer(&self, n: u16, job: &Job) -> Answer {
        let now = self.clock.now();
        let mut model = self.model();
        let (asked, wanted) = match &job.step {
            Step::First => (Asked::First, None),
            Step::Renew(l) => (Asked::Renew, Some(l.address)),
            Step::Rebind(l) => (Asked::Rebind, Some(l.address)),
            Step::Reboot(address) => (Asked::Reboot, Some(*address)),
            Step::Drop(_) | Step::Release(_) => (Asked::Drop, None),
        };
        let drop = asked == Asked::Drop;
        let end = now + Duration::from_secs(model.seconds.into());
        if !drop && model.leases.insert(n, (Ipv4Addr::UNSPECIFIED, end)).is_some_and(|(_, end)| end < now) {
            model.lapsed.push(n);
        }
        model.seen.push((now, n, asked));
        if drop {
            return Answer::Silent;
        }
        if let Some(address) = wanted.filter(|a| model.refused.contains(a)) {
            model.leases.remove(&n);
            return Answer::Refused(format!("{address} is not yours"));
        }
        let given = wanted.unwrap_or_else(|| {
            model.spare += 1;
            lease(model.spare, 1).address
        });
        model.leases.insert(n, (given, end));
        Answer::Bound(Lease { address: given, mtu: model.mtu, ..lease(n, model.seconds) })
    }
}

impl Exchange for Server {
    async fn run(&self, job: &Job) -> Outcome<Answer> {
        let n = u16::from_be_bytes(job.identity.client_id[1..].try_into().unwrap());
        {
            let mut model = self.model();
            model.running += 1;
            model.most = model.most.max(model.running);
        }
        let _running = Running(self);
        // From exec to the answer.
        sleep(Duration::from_millis(20)).await;
        if self.model().gone.contains(&n) {
            return Ok(Answer::Gone);
        }
        let silent = !self.model().up || self.model().dead.contains(&n);
        if silent {
            let asked = match &job.step {
                Step::Renew(_) => Asked::Renew,
                Step::Rebind(_) => Asked::Rebind,
                Step::Reboot(_) => Asked::Reboot,
                Step::Drop(_) | Step::Release(_) => return Ok(self.answer(n, job)),
                Step::First => Asked::First,
            };
            self.model().seen.push((self.clock.now(), n, asked));
            sleep(Duration::from_secs(job.seconds.into())).await;
            return Ok(Answer::Silent);
        }
        Ok(self.answer(n, job))
    }
}

type Has = (u16, Option<Ipv4Addr>);

#[derive(Clone, Default)]
struct Told {
    news: Arc<Mutex<Vec<(u16, News)>>>,
    held: Arc<Mutex<Vec<Has>>>,
    torn: Arc<Mutex<Vec<String>>>,
    kept: Arc<Mutex<usize>>,
}

fn whose(record: &LeaseRecord<Job>) -> u16 {
    record.container.as_str()[1..].parse().unwrap()
}

impl Report for Told {
    fn lease(&self, record: &LeaseRecord<Job>, news: &News) {
        self.news.lock().unwrap().push((whose(record), news.clone()));
    }

    fn torn(&self, name: &str, _why: &Failure) {
        self.torn.lock().unwrap().push(name.into());
    }

    fn kept(&self, count: usize) {
        *self.kept.lock().unwrap() = count;
    }

    fn held(&self, record: &LeaseRecord<Job>) {
        self.held.lock().unwrap().push((whose(record), record.job.held().map(|lease| lease.address)));
    }
}

/// A node: its directories, pods and the server on its LAN.
struct Node {
    dirs: Dirs,
    server: Server,
    clock: SimClock,
    told: Told,
    _tmp: Option<tempfile::TempDir>,
}

impl Node {
    /// In memory: thousands of records are synced.
    fn new(seconds: u32) -> Self {
        let tmp = tempfile::tempdir_in("/dev/shm").unwrap();
        let node = Self::at(tmp.path(), seconds);
        Self { _tmp: Some(tmp), ..node }
    }

    fn at(place: &Path, seconds: u32) -> Self {
        let clock = SimClock { begin: Instant::now(), slept: Arc::default() };
        let model = Model {
            seconds,
            up: true,
            refused: HashSet::new(),
            gone: HashSet::new(),
            dead: HashSet::new(),
            leases: HashMap::new(),
            spare: 60_000,
            seen: Vec::new(),
            lapsed: Vec::new(),
            running: 0,
            most: 0,
            mtu: None,
        };
        let server = Server { model: Arc::new(Mutex::new(model)), clock: clock.clone() };
        let dirs = Dirs::new(place.join("run"), place.join("state")).with_boot("now");
        std::fs::create_dir_all(place.join("run/netns")).unwrap();
        Self { dirs, server, clock, told: Told::default(), _tmp: None }
    }

    /// As ADD leaves it behind.
    fn add(&self, n: u16) -> LeaseRecord<Job> {
        let seconds = self.server.model().seconds;
        self.add_with(n, seconds)
    }

    fn add_with(&self, n: u16, seconds: u32) -> LeaseRecord<Job> {
        let netns = self.netns(n);
        std::fs::write(&netns, "").unwrap();
        let lease = lease(n, seconds);
        let end = self.clock.now() + Duration::from_secs(seconds.into());
        self.server.model().leases.insert(n, (lease.address, end));
        let job = Job { netns, ..job(n) }.with(Step::Renew(lease), 1);
        let dirs = self.dirs.clone().with_clock(u64::try_from(self.clock.now().as_nanos()).unwrap());
        let (container, ifname) = (format!("c{n}").parse().unwrap(), "net1".parse().unwrap());
        let record = LeaseRecord::new(&dirs, container, ifname, "lan", job).unwrap();
        Leases::new(&self.dirs).write(&record).unwrap();
        record
    }

    /// As DEL leaves it behind.
    fn del(&self, n: u16) {
        let (container, ifname) = (format!("c{n}").parse().unwrap(), "net1".parse().unwrap());
        Leases::new(&self.dirs).remove(&container, &ifname).unwrap();
        let _ = std::fs::remove_file(self.netns(n));
    }

    fn netns(&self, n: u16) -> PathBuf {
        self.dirs.run.join(format!("netns/{n}"))
    }

    fn record(&self, n: u16) -> Option<LeaseRecord<Job>> {
        let (container, ifname) = (format!("c{n}").parse().unwrap(), "net1".parse().unwrap());
        Leases::new(&self.dirs).read(&container, &ifname).unwrap()
    }

    fn address(&self, n: u16) -> Option<Ipv4Addr> {
        self.record(n)?.job.held().map(|l| l.address)
    }

    fn news(&self, n: u16) -> Vec<News> {
        self.told.news.lock().unwrap().iter().filter(|(who, _)| *who == n).map(|(_, news)| news.clone()).collect()
    }

    /// What the keeper said that it has, in turn.
    fn held(&self, n: u16) -> Vec<Option<Ipv4Addr>> {
        self.told.held.lock().unwrap().iter().filter(|(who, _)| *who == n).map(|(_, address)| *address).collect()
    }

    fn keeper(&self) -> Keeper<Server, SimClock, Told> {
        let (dirs, exchange, clock) = (self.dirs.clone(), self.server.clone(), self.clock.clone());
        Keeper { dirs, exchange, clock, report: self.told.clone(), root: PathBuf::new() }
    }

    /// A keeper that is killed after so long.
    async fn keep(&self, time: Duration) {
        let ended = tokio::time::timeout(time, keep(self.keeper())).await;
        assert!(ended.is_err(), "it ended by itself: {ended:?}");
    }

    async fn keep_for(&self, seconds: u64) {
        self.keep(Duration::from_secs(seconds)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_thousand_leases_are_renewed_on_time() {
    let node = Node::new(600);
    let times = [600, 1800, 3600];
    let pods: Vec<(u16, u32)> = (0..1000).map(|n| (n, times[usize::from(n) % 3])).collect();
    for (n, seconds) in &pods {
        node.add_with(*n, *seconds);
    }
    let begin = node.clock.now();
    node.keep_for(1000).await;
    let model = node.server.model();
    assert!(model.lapsed.is_empty(), "{:?}", model.lapsed);
    assert!(model.most <= 8, "{} children at once", model.most);
    let late = |at: Duration, due: u64| at - begin - Duration::from_secs(due);
    for (n, seconds) in pods {
        let asked: Vec<_> = model.seen.iter().filter(|(_, who, _)| *who == n).collect();
        let due: &[u64] = match seconds {
            600 => &[300, 600, 900],
            1800 => &[900],
            _ => &[],
        };
        assert_eq!(asked.len(), due.len(), "pod {n}: {asked:?}");
        for ((at, _, what), due) in asked.iter().zip(due) {
            assert_eq!(*what, Asked::Renew);
            // All are due at once, and eight children are.
            assert!(late(*at, *due) < Duration::from_secs(6), "pod {n}: {:?} late", late(*at, *due));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_of_two_seconds_is_kept() {
    let node = Node::new(2);
    node.add(1);
    node.keep_for(60).await;
    assert!(node.server.model().lapsed.is_empty());
    let renewed = node.server.seen(1).len();
    assert!((50..=60).contains(&renewed), "{renewed}");
}

/// On a fresh node: the folder of leases comes with the first ADD otherwise.
#[tokio::test(start_paused = true)]
async fn the_first_lease_of_a_node_is_seen_at_once() {
    let node = Node::new(3);
    let pod = async {
        sleep(Duration::from_secs(2)).await;
        node.add(1);
        sleep(Duration::from_secs(20)).await;
    };
    tokio::select! {
        ended = keep(node.keeper()) => panic!("{ended:?}"),
        () = pod => {}
    }
    assert!(node.server.model().lapsed.is_empty() && node.server.seen(1).len() > 10, "{:?}", node.server.seen(1));
}

#[tokio::test(start_paused = true)]
async fn new_records_are_taken_up_and_removed_ones_let_go() {
    let node = Node::new(600);
    let pods = async {
        sleep(Duration::from_secs(3)).await;
        node.add(1);
        node.add(2);
        sleep(Duration::from_secs(290)).await;
        node.del(2);
        sleep(Duration::from_secs(30)).await;
        assert_eq!((node.server.seen(1), node.server.seen(2)), (vec![Asked::Renew], vec![]));
        // A new sandbox with the same names.
        node.add(2);
        sleep(Duration::from_secs(310)).await;
        assert_eq!(node.server.seen(2), [Asked::Renew]);
        let again = node.add(2);
        sleep(Duration::from_secs(290)).await;
        assert_eq!(node.server.seen(2), [Asked::Renew], "counted from the new ADD on");
        sleep(Duration::from_secs(30)).await;
        assert_eq!(node.server.seen(2), [Asked::Renew, Asked::Renew]);
        assert!(node.record(2).unwrap().same_add(&again) && node.record(2).unwrap().got_at > again.got_at);
    };
    tokio::select! {
        ended = keep(node.keeper()) => panic!("{ended:?}"),
        () = pods => {}
    }
}

#[tokio::test(start_paused = true)]
async fn a_child_at_work_ends_with_its_record() {
    let node = Node::new(600);
    node.add(1);
    node.server.model().up = false;
    let pods = async {
        sleep(Duration::from_secs(301)).await;
        assert_eq!(node.server.model().running, 1, "it waits for an answer");
        node.del(1);
        sleep(Duration::from_secs(11)).await;
        assert_eq!((node.server.model().running, node.record(1)), (0, None));
    };
    tokio::select! {
        ended = keep(node.keeper()) => panic!("{ended:?}"),
        () = pods => {}
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_comes_back_in_time_loses_nothing() {
    let node = Node::new(3600);
    node.add(1);
    node.server.model().up = false;
    node.keep_for(3300).await;
    let asked = node.server.seen(1);
    assert_eq!(asked[..6], vec![Asked::Renew; 6]);
    assert!(asked[6..].iter().all(|a| *a == Asked::Rebind) && asked.len() > 6, "{asked:?}");
    node.server.model().up = true;
    node.keep_for(300).await;
    assert!(node.server.model().lapsed.is_empty());
    assert_eq!(node.address(1), Some(lease(1, 1).address));
    assert_eq!(node.news(1).last(), Some(&News::Renewed));
}

#[tokio::test(start_paused = true)]
async fn what_ran_out_is_dropped_and_asked_for_anew() {
    let node = Node::new(3600);
    node.add(1);
    node.server.model().up = false;
    node.keep_for(3700).await;
    let asked = node.server.seen(1);
    let dropped = asked.iter().position(|a| *a == Asked::Drop).unwrap();
    assert!(asked[dropped + 1..].iter().all(|a| *a == Asked::First) && asked.len() > dropped + 3, "{asked:?}");
    assert_eq!(node.record(1).unwrap().job.step, Step::First, "the record says that there is none");
    node.server.model().up = true;
    node.keep_for(100).await;
    assert_eq!(node.address(1), Some(lease(60_001, 1).address));
    assert!(node.news(1).contains(&News::Lost { refused: false }));
    let (before, now) = (lease(1, 1).address, lease(60_001, 1).address);
    assert_eq!(node.news(1).last(), Some(&News::Changed { before }));
    assert_eq!(node.held(1), [Some(before), None, Some(now)], "at each take-up, and after the change");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_takes_the_address_at_once() {
    let node = Node::new(600);
    let address = node.add(1).job.held().unwrap().address;
    node.server.model().refused.insert(address);
    node.keep_for(310).await;
    assert_eq!(node.server.seen(1), [Asked::Renew, Asked::Drop, Asked::First]);
    assert_eq!(node.address(1), Some(lease(60_001, 1).address));
    let news = node.news(1);
    assert!(
        matches!(&news[..], [News::Refused(_), News::Lost { refused: true }, News::Changed { before }] if *before == address),
        "{news:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn the_same_address_again_is_no_other_one() {
    let node = Node::new(600);
    node.add(1);
    node.server.model().up = false;
    node.keep_for(700).await;
    node.server.model().up = true;
    node.server.model().spare = 0;
    node.keep_for(100).await;
    assert_eq!(node.address(1), Some(lease(1, 1).address));
    assert_eq!(node.news(1).last(), Some(&News::Got));
    assert_eq!(node.record(1).unwrap().job.before, None);
}

#[tokio::test(start_paused = true)]
async fn what_a_renewal_says_otherwise_is_kept_and_told_once() {
    let node = Node::new(600);
    let mut record = node.add(1);
    record.job.follows = Some(Follows { most: Some(1500), mtu: None });
    Leases::new(&node.dirs).write(&record).unwrap();
    node.keep_for(310).await;
    assert_eq!(node.news(1), [News::Renewed]);
    node.server.model().mtu = Some(1400);
    node.keep_for(700).await;
    let amended = News::Amended("MTU 1400 instead of none".into());
    assert_eq!(node.news(1), [News::Renewed, News::Renewed, amended, News::Renewed]);
    let kept = node.record(1).unwrap().job;
    assert_eq!((kept.follows.unwrap().link_mtu(), kept.routes), (Some(1400), None));
}

#[tokio::test(start_paused = true)]
async fn for_ever_is_left_alone() {
    let node = Node::new(Lease::FOR_EVER);
    node.add(1);
    node.keep_for(40_000).await;
    assert_eq!(node.server.seen(1), []);
    assert!(node.record(1).is_some());
}
