//! Lists, and watches in pieces.

use std::sync::mpsc::channel;

use super::*;

fn asked(fake: &Fake) -> String {
    fake.lines().last().unwrap().clone()
}

#[test]
fn a_list_is_handed_on_object_by_object() {
    let items = [json!({"metadata": {"name": "a"}}), json!({"metadata": {"name": "b"}})];
    let list = json!({"metadata": {"resourceVersion": "42"}, "items": items});
    let fake = script(vec![Reply::Json(200, list), status(410, "gone"), status(403, "no")]);
    let tmp = tempfile::tempdir().unwrap();
    let api = fake.api(tmp.path(), short()).lasting();
    block_on(async {
        let mut seen = Vec::new();
        let listed = api.list(&Collection::nads(), "0", &mut |o| seen.push(o)).await.unwrap();
        assert_eq!((listed, &seen[..]), (Listed::Whole("42".into()), &items[..]));
        assert!(asked(&fake).ends_with("/network-attachment-definitions?resourceVersion=0"), "{}", asked(&fake));
        let of_node = Collection::pods_of("node1").unwrap();
        assert_eq!(api.list(&of_node, "42", &mut |_| ()).await.unwrap(), Listed::Expired);
        let wanted = "pods?fieldSelector=spec.nodeName%3Dnode1&resourceVersion=42&resourceVersionMatch=NotOlderThan";
        assert!(asked(&fake).ends_with(wanted), "{}", asked(&fake));
        assert_eq!(api.list(&of_node, "", &mut |_| ()).await.unwrap_err().code, Code::ApiRefused);
    });
    assert!(Collection::pods_of("a/b").is_err());
}

#[test]
fn a_watch_is_read_line_by_line_however_it_is_cut() {
    let (send, receive) = channel();
    let mut answers = vec![Reply::Pieces(receive)];
    let fake = Fake::new(move |_| answers.pop().unwrap_or_else(|| status(410, "too old")));
    let tmp = tempfile::tempdir().unwrap();
    let api = fake.api(tmp.path(), short()).lasting();
    let line = |kind: &str, version: &str| {
        format!("{}\n", json!({"type": kind, "object": {"metadata": {"name": "\u{20ac}", "resourceVersion": version}}}))
    };
    let text = line("ADDED", "1") + &line("NEW KIND", "2") + "\n" + &line("BOOKMARK", "3") + &line("DELETED", "4");
    block_on(async {
        let mut watch = api.watch(&Collection::nads(), "7").await.unwrap().unwrap();
        assert!(asked(&fake).contains("watch=1&allowWatchBookmarks=true&timeoutSeconds=290&resourceVersion=7"));
        // Of text, so never within a character.
        for piece in text.chars().collect::<Vec<_>>().chunks(7) {
            send.send(piece.iter().collect()).unwrap();
        }
        assert!(matches!(watch.next().await.unwrap(), Some(Change::Is(o)) if o["metadata"]["name"] == "\u{20ac}"));
        assert_eq!(watch.next().await.unwrap(), Some(Change::Alive));
        assert_eq!(watch.version(), "3");
        assert!(matches!(watch.next().await.unwrap(), Some(Change::Gone(_))));
        send.send(json!({"type": "ERROR", "object": {"code": 410, "message": "old"}}).to_string() + "\n").unwrap();
        assert_eq!(watch.next().await.unwrap(), Some(Change::Expired));
        assert_eq!(watch.version(), "4", "an error has none");
        send.send(json!({"type": "ERROR", "object": {"code": 500, "message": "etcd"}}).to_string() + "\n").unwrap();
        assert!(watch.next().await.unwrap_err().msg.contains("etcd"));
        send.send("no JSON\n".into()).unwrap();
        assert_eq!(watch.next().await.unwrap_err().code, Code::ApiRefused);
        drop(send);
        assert_eq!(watch.next().await.unwrap(), None);
        assert!(api.watch(&Collection::nads(), "7").await.unwrap().is_none(), "too old at once");
    });
}

#[test]
fn a_program_that_stays_has_time_for_each_question() {
    let fake = script(vec![Reply::Silence(Duration::from_secs(5)), status(503, "x")]);
    let tmp = tempfile::tempdir().unwrap();
    let api = fake.api(tmp.path(), short()).lasting();
    block_on(async {
        assert_eq!(api.get_pod("a", "b").await.unwrap_err().code, Code::ApiUnreachable);
        let before = fake.seen().len();
        assert_eq!(api.get_pod("a", "b").await.unwrap_err().code, Code::ApiUnreachable);
        assert!(fake.seen().len() > before, "asked again, though the first one took all the time of a call");
    });
}
