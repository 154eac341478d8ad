//! The NADs' copies on disk, for the plugin when the agent is away, and the stamp by which it vouches for them.
//!
//! A copy that could not be written is tried again, and nothing is vouched for until all are as they should be.

use std::collections::BTreeSet;
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::sleep;

use super::context::Context;
use super::known::Trust;
use crate::nad::Nad;
use crate::protocol::Name;
use crate::resolve::Copies;
use crate::types::Outcome;

/// The plugin believes a stamp for 30 s.
const EVERY: Duration = Duration::from_secs(10);

pub async fn run(ctx: Context) -> Outcome<()> {
    loop {
        tokio::select! {
            () = sleep(EVERY) => vouch(&ctx),
            () = ctx.ended() => return Ok(()),
        }
    }
}

pub fn write(ctx: &Context, nad: &Nad) {
    let copies = Copies::new(&ctx.dirs);
    let same = copies.read(&nad.namespace, &nad.name).is_some_and(|copy| copy.nad == *nad);
    let name = Name { namespace: nad.namespace.clone(), name: nad.name.clone() };
    note(ctx, name, same || copies.write(nad));
}

pub fn forget(ctx: &Context, name: &Name) {
    let gone = Copies::new(&ctx.dirs).forget(&name.namespace, &name.name);
    note(ctx, name.clone(), gone);
}

/// All others are of NADs that went while nobody watched.
pub fn keep_only(ctx: &Context, names: &BTreeSet<Name>) {
    let copies = Copies::new(&ctx.dirs).names().into_iter().map(|(namespace, name)| Name { namespace, name });
    for gone in copies.filter(|copy| !names.contains(copy)) {
        forget(ctx, &gone);
    }
}

/// While the watch runs and the copies are true.
pub fn vouch(ctx: &Context) {
    if ctx.known.nads.trust() != Trust::True {
        return;
    }
    let again: Vec<Name> = unkept(ctx).iter().cloned().collect();
    for name in again {
        match ctx.known.nads.get(&name) {
            Some(nad) => write(ctx, &nad),
            None => forget(ctx, &name),
        }
    }
    if !unkept(ctx).is_empty() {
        tracing::warn!("some copies of networks are not true: nothing is vouched for");
        return;
    }
    if let Err(failure) = Copies::new(&ctx.dirs).vouch() {
        tracing::warn!(%failure, "the copies of networks are not vouched for");
    }
}

fn note(ctx: &Context, name: Name, kept: bool) {
    let mut unkept = unkept(ctx);
    if kept {
        unkept.remove(&name);
    } else {
        unkept.insert(name);
        // A plugin that finds no agent now would take the copy before for true.
        Copies::new(&ctx.dirs).withdraw();
    }
}

fn unkept(ctx: &Context) -> MutexGuard<'_, BTreeSet<Name>> {
    ctx.known.unkept.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::testing::{context, nad};

    #[test]
    fn vouched_for_while_all_copies_are_true() {
        let tmp = tempfile::tempdir().unwrap();
        let ctx = context(tmp.path());
        let copies = Copies::new(&ctx.dirs);
        let (lan, old) = (nad("lan", "1"), nad("old", "1"));
        copies.write(&old);
        vouch(&ctx);
        assert!(!copies.vouched(), "no watch runs");
        ctx.known.nads.put(Name { namespace: "prod".into(), name: "lan".into() }, lan.clone());
        write(&ctx, &lan);
        keep_only(&ctx, &BTreeSet::from([Name { namespace: "prod".into(), name: "lan".into() }]));
        ctx.known.nads.set_running(true);
        vouch(&ctx);
        assert!(copies.vouched());
        assert_eq!(copies.read("prod", "lan").unwrap().nad, lan);
        assert!(copies.read("prod", "old").is_none(), "gone while nobody watched");
    }

    #[test]
    fn a_copy_that_cannot_be_written_is_not_vouched_for() {
        let tmp = tempfile::tempdir().unwrap();
        let ctx = context(tmp.path());
        let copies = Copies::new(&ctx.dirs);
        // A file in the place of the directory.
        std::fs::create_dir_all(&ctx.dirs.state).unwrap();
        std::fs::write(ctx.dirs.state.join("nads"), "").unwrap();
        let lan = nad("lan", "1");
        ctx.known.nads.put(Name { namespace: "prod".into(), name: "lan".into() }, lan.clone());
        ctx.known.nads.set_running(true);
        write(&ctx, &lan);
        vouch(&ctx);
        assert!(!copies.vouched());
        std::fs::remove_file(ctx.dirs.state.join("nads")).unwrap();
        vouch(&ctx);
        assert!(copies.vouched());
        assert_eq!(copies.read("prod", "lan").unwrap().nad, lan, "written now");
    }
}
