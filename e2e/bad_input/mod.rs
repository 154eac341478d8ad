//! Malformed configurations, environments and stores, by table: each is answered by one error on standard output, with
//! the right code and the name of what is wrong; nothing panics, nothing changes.

mod configuration;
mod drop_ins;
mod environment;
mod stores;
mod text;

use serde_json::{Map, Value, json};

use crate::harness::{Call, Lab, Netns, Snapshot};

/// Sets a member deep in a configuration, by its path with slashes; objects on the way are made.
fn set(conf: &mut Value, path: &str, value: Value) {
    match path.split_once('/') {
        None => drop(conf.as_object_mut().unwrap().insert(path.to_owned(), value)),
        Some((first, rest)) => {
            let members = conf.as_object_mut().unwrap();
            let inner = members.entry(first.to_owned()).or_insert_with(|| Value::Object(Map::new()));
            set(inner, rest, value);
        }
    }
}

/// The call with one member of its configuration changed.
fn changed<'l>(call: &Call<'l>, path: &str, value: Value) -> Call<'l> {
    let mut conf = call.conf().clone();
    set(&mut conf, path, value);
    let mut call = call.clone();
    for (key, value) in conf.as_object().unwrap() {
        call = call.with(key, value.clone());
    }
    call
}

/// One node for many calls that all fail.
struct Table<'l> {
    lab: &'l Lab,
    pod: &'l Netns,
    before: Snapshot,
}

impl<'l> Table<'l> {
    fn new(lab: &'l Lab, pod: &'l Netns) -> Self {
        Self { lab, pod, before: Snapshot::of(lab, &[pod]) }
    }

    /// The call fails with this code, names these words, and attaches nothing.
    #[track_caller]
    fn refused(&self, call: &Call, verb: &str, code: u64, words: &[&str]) {
        let (links, entries) = (self.pod.names(), self.lab.journal());
        let error = call.fails(verb);
        assert_eq!(error.code, code, "{verb} {}: {error:?}", call.conf());
        assert!(error.msg.len() > 7 && error.msg.starts_with("TR"), "a stable code: {error:?}");
        error.names(words);
        let what = format!("{verb} {words:?}: {error:?}");
        assert_eq!((links, entries), (self.pod.names(), self.lab.journal()), "{what}");
    }

    /// All is as it was before the first of them.
    #[track_caller]
    fn end(self) {
        self.before.same(&Snapshot::of(self.lab, &[self.pod]), "after all rows");
    }
}

/// What has no member called so: the wire's own configuration without anything asked for.
fn plain_wire<'l>(lab: &'l Lab, pod: &Netns) -> Call<'l> {
    let call = crate::attachment::plain(lab, pod);
    call.with("capabilities", json!({"mac": true, "ips": true}))
}
