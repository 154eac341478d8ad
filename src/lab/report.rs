//! What a run of the lab showed: steps, what was left out, and the picture; as a table for people or as JSON with the
//! same facts.
//!
//! Knows no kernel and no plugin: values in, text out.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::picture::Picture;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Build,
    Add,
    Ping,
    Fact,
    Refusal,
    Check,
    Del,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    pub kind: Kind,
    pub what: String,
    pub ok: bool,
    /// A ping's own time, from request to answer; for the others how long the step took.
    pub milliseconds: f64,
    /// For a refusal the plugin's words, for a failure the reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// Something that this machine or this user cannot show.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    pub what: String,
    pub why: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Nothing failed or is missing. For a play: every ping came through, and the refusal came.
    Ok,
    /// Nothing failed, but something was left out.
    Incomplete,
    Failed,
}

#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    pub steps: Vec<Step>,
    pub left_out: Vec<LeftOut>,
    pub picture: Option<Picture>,
}

impl Report {
    pub fn verdict(&self) -> Verdict {
        let has = |kind| self.steps.iter().any(|s| s.kind == kind);
        // A play without a single ping has shown nothing.
        let shown = has(Kind::Ping) || !has(Kind::Add);
        if !shown || self.steps.iter().any(|s| !s.ok) {
            Verdict::Failed
        } else if self.left_out.is_empty() {
            Verdict::Ok
        } else {
            Verdict::Incomplete
        }
    }

    pub fn leave_out(&mut self, what: impl Into<String>, why: impl Into<String>) {
        self.left_out.push(LeftOut { what: what.into(), why: why.into() });
    }

    /// Carries out a step and writes down what became of it. `Ok(Some(text))` is success with something to tell.
    pub fn step(&mut self, kind: Kind, what: impl Into<String>, act: impl FnOnce() -> anyhow::Result<Option<String>>) {
        let start = Instant::now();
        let outcome = act();
        self.record(kind, what, start.elapsed(), outcome);
    }

    pub fn record(
        &mut self,
        kind: Kind,
        what: impl Into<String>,
        took: Duration,
        outcome: anyhow::Result<Option<String>>,
    ) {
        let (ok, detail) = match outcome {
            Ok(detail) => (true, detail),
            Err(e) => (false, Some(format!("{e:#}"))),
        };
        let what = what.into();
        tracing::info!(what, ok, detail, "step");
        self.steps.push(Step { kind, what, ok, milliseconds: round(took), detail });
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "trestle": env!("CARGO_PKG_VERSION"),
            "verdict": self.verdict(),
            "steps": self.steps,
            "leftOut": self.left_out,
            "picture": self.picture,
        })
    }

    pub fn write(&self, out: &mut impl Write, look: Look) -> io::Result<()> {
        if let Some(picture) = &self.picture {
            writeln!(out, "{}", picture.draw(look))?;
        }
        let width = self.steps.iter().map(|s| s.what.chars().count()).max().unwrap_or(0);
        let row = |what: &str| format!("{what}{}", " ".repeat(width.saturating_sub(what.chars().count())));
        writeln!(out, "{}  result         time", row("step"))?;
        for step in &self.steps {
            let mark = if step.ok { look.paint(Paint::Good, "ok    ") } else { look.paint(Paint::Bad, "FAILED") };
            writeln!(out, "{}  {mark}  {:>8.2} ms", row(&look.text(&step.what)), step.milliseconds)?;
            for line in step.detail.iter().flat_map(|d| wrapped(&look.text(d), 100)) {
                writeln!(out, "    {}", look.paint(Paint::Quiet, &line))?;
            }
        }
        for LeftOut { what, why } in &self.left_out {
            let mark = look.paint(Paint::Doubt, "left out");
            writeln!(out, "{mark}: {}", look.text(what))?;
            for line in wrapped(&look.text(why), 100) {
                writeln!(out, "    {line}")?;
            }
        }
        writeln!(out, "\n{}", self.summary(look))
    }

    fn summary(&self, look: Look) -> String {
        let pings = self.steps.iter().filter(|s| s.kind == Kind::Ping);
        let (all, back) = (pings.clone().count(), pings.filter(|s| s.ok).count());
        let failed = self.steps.iter().filter(|s| !s.ok).count();
        match self.verdict() {
            Verdict::Ok if all == 0 => look.paint(Paint::Good, "Taken down, and nothing is left."),
            Verdict::Failed if all == 0 => look.paint(Paint::Bad, &format!("{failed} steps failed.")),
            Verdict::Ok => look.paint(Paint::Good, &format!("All {all} pings came through, and the refusal came.")),
            Verdict::Incomplete => look.paint(
                Paint::Doubt,
                &format!("{back} of {all} pings came through, but not everything could be shown here (exit code 3)."),
            ),
            Verdict::Failed => {
                look.paint(Paint::Bad, &format!("{failed} steps failed; {back} of {all} pings came through."))
            }
        }
    }
}

/// To a hundredth of a millisecond: more is noise.
fn round(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e5).round() / 100.0
}

/// Lines of at most `width` characters, broken at blanks; line breaks of the text stay.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for paragraph in text.lines() {
        let mut line = String::new();
        for word in paragraph.split_whitespace() {
            if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > width {
                lines.push(std::mem::take(&mut line));
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        lines.push(line);
    }
    lines
}

pub enum Paint {
    Good,
    Bad,
    Doubt,
    Quiet,
}

/// What the reader's terminal can show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    pub colour: bool,
    pub utf8: bool,
}

impl Look {
    /// Colour only on a terminal and without NO_COLOR (<https://no-color.org>); line-drawing characters where the
    /// locale has them.
    pub fn of(env: &dyn Fn(&str) -> Option<String>, terminal: bool) -> Self {
        let set = |key: &str| env(key).filter(|v| !v.is_empty());
        let dumb = set("TERM").is_some_and(|t| t == "dumb");
        let locale = set("LC_ALL").or_else(|| set("LC_CTYPE")).or_else(|| set("LANG")).unwrap_or_default();
        let utf8 = locale.to_lowercase().replace('-', "").contains("utf8");
        Self { colour: terminal && !dumb && set("NO_COLOR").is_none(), utf8 }
    }

    pub fn paint(self, paint: Paint, text: &str) -> String {
        let code = match paint {
            Paint::Good => "32",
            Paint::Bad => "31;1",
            Paint::Doubt => "33",
            Paint::Quiet => "2",
        };
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.into() }
    }

    /// The few characters beyond ASCII that our own texts have.
    pub fn text(self, text: &str) -> String {
        if self.utf8 { text.into() } else { text.replace('→', "->") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Look = Look { colour: false, utf8: false };

    fn report() -> Report {
        let mut report = Report::default();
        report.step(Kind::Add, "plain pod", || Ok(None));
        report.record(Kind::Ping, "neighbour → plain pod", Duration::from_micros(412), Ok(None));
        report
    }

    fn written(report: &Report, look: Look) -> String {
        let mut out = Vec::new();
        report.write(&mut out, look).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_verdict_is_the_worst_that_happened() {
        let mut nothing_shown = Report::default();
        nothing_shown.step(Kind::Add, "plain pod", || Ok(None));
        assert_eq!(nothing_shown.verdict(), Verdict::Failed);
        let mut report = report();
        assert_eq!(report.verdict(), Verdict::Ok);
        report.leave_out("the guest", "no tap");
        assert_eq!(report.verdict(), Verdict::Incomplete);
        report.step(Kind::Ping, "guest → plain pod", || anyhow::bail!("no answer"));
        assert_eq!(report.verdict(), Verdict::Failed);
    }

    #[test]
    fn the_table_is_aligned_and_plain() {
        let mut report = report();
        report.record(Kind::Refusal, "macvlan for a VM", Duration::ZERO, Ok(Some("TR0201: because".into())));
        let text = written(&report, PLAIN);
        assert!(text.is_ascii(), "{text}");
        assert!(text.contains("neighbour -> plain pod  ok          0.41 ms\n"), "{text}");
        assert!(text.contains("\n    TR0201: because\n"), "{text}");
        assert!(text.contains("All 1 pings came through, and the refusal came."), "{text}");
    }

    #[test]
    fn failures_and_gaps_are_told() {
        let mut report = report();
        report.step(Kind::Ping, "guest → neighbour", || anyhow::bail!("no answer within 5 s"));
        report.leave_out("the real guest", "no QEMU");
        let text = written(&report, Look { colour: false, utf8: true });
        assert!(text.contains("FAILED") && text.contains("no answer within 5 s"), "{text}");
        assert!(text.contains("left out: the real guest\n    no QEMU\n"), "{text}");
        assert!(text.contains("1 steps failed; 1 of 2 pings"), "{text}");
    }

    #[test]
    fn colour_only_where_it_is_wanted() {
        let look = |terminal, pairs: &'static [(&str, &str)]| {
            Look::of(&|k: &str| pairs.iter().find(|(p, _)| *p == k).map(|(_, v)| (*v).to_owned()), terminal)
        };
        assert_eq!(look(true, &[("LANG", "en_US.UTF-8")]), Look { colour: true, utf8: true });
        assert_eq!(look(true, &[("NO_COLOR", "1"), ("LC_ALL", "C"), ("LANG", "C.utf8")]), PLAIN);
        assert_eq!(look(true, &[("NO_COLOR", "")]), Look { colour: true, utf8: false });
        assert_eq!(look(false, &[]), PLAIN);
        assert!(!written(&report(), PLAIN).contains('\x1b'));
        assert!(written(&report(), Look { colour: true, utf8: true }).contains("\x1b[32mok"));
    }

    #[test]
    fn json_has_the_same_facts() {
        let mut report = report();
        report.leave_out("a", "b");
        let json = report.json();
        assert_eq!(json["verdict"], "incomplete");
        assert_eq!(json["steps"][1]["kind"], "ping");
        assert_eq!(json["steps"][1]["milliseconds"], 0.41);
        assert_eq!(json["leftOut"][0]["why"], "b");
        let back: Report = serde_json::from_value(json).unwrap();
        assert_eq!(back, report);
    }

    #[test]
    fn long_texts_are_broken_at_blanks() {
        assert_eq!(wrapped("aa bb cc\nd", 5), ["aa bb", "cc", "d"]);
        assert_eq!(wrapped("aaaaaaaa b", 5), ["aaaaaaaa", "b"]);
    }
}
