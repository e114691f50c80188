//! `fleetgate accept`: shows what would be lost, asks, and accepts exactly that.

use std::io::{BufRead, IsTerminal as _, Write};

use serde_json::{Value, json};

use super::admin::{self, Access, Shape, list, text};
use super::table::printable;
use super::{FAILED, FINE, say};
use crate::spec::file;

/// What is accepted, and how.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Arguments {
    /// A provider (`consul`), `upstreams/NAME`, `routes/NAME`, another KIND/NAME or KIND/NAME@PROVIDER, or `file:PATH`, as
    /// `fleetgate status` lists it
    target: String,
    /// Doesn't ask
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    access: Access,
}

/// What is held, and the digest by which exactly that is accepted.
const HOLDS: Shape = &[("items", Value::is_array), ("digest", Value::is_string)];

/// Addresses and names that are shown of one hold; more are counted.
const MAX_SHOWN: usize = 10;

/// Runs it on the terminal.
pub(super) fn run(arguments: &Arguments, out: &mut dyn Write, remarks: &mut dyn Write) -> u8 {
    let stdin = std::io::stdin();
    let asks = stdin.is_terminal();
    accept(arguments, asks.then(|| stdin.lock()), out, remarks)
}

/// `answers`: where the operator answers, if anybody is there to ask.
fn accept(
    Arguments { target, yes, access }: &Arguments,
    mut answers: Option<impl BufRead>,
    out: &mut dyn Write,
    remarks: &mut dyn Write,
) -> u8 {
    let target = &absolute(target);
    let path = format!("/api/v1/holds?target={}", super::admin::segment(target));
    loop {
        let holds = match access.ask(&path, HOLDS) {
            Ok(holds) => holds,
            Err(failure) => return admin::failed(remarks, &failure),
        };
        let items = list(&holds, "items");
        if items.iter().any(|hold| !is_refused(hold)) {
            // The JSON of the answer stands alone on standard output.
            let is_shown = say(if access.is_json() { &mut *remarks } else { &mut *out }, &preview(items));
            if !yes {
                if !is_shown {
                    return fail(remarks, "nothing is accepted: what would be lost can't be shown");
                }
                match answers.as_mut().map(|answers| ask(answers, remarks)) {
                    Some(true) => {}
                    Some(false) => return fail(remarks, "nothing is accepted"),
                    None => {
                        return fail(
                            remarks,
                            "nothing is accepted: there is no terminal to ask on; add --yes to accept this",
                        );
                    }
                }
            }
        }
        match access.post("/api/v1/accept", &json!({ "target": target, "digest": holds.get("digest") })) {
            Ok(answer) => {
                let shown =
                    if access.is_json() { admin::pretty(&answer) } else { printable(&text(answer.get("message"))) };
                say(out, &shown);
                return FINE;
            }
            Err(failure) if failure.code == "changed" && !yes && answers.is_some() => {
                say(remarks, "fleetgate: what is held has changed meanwhile");
            }
            Err(failure) => return admin::failed(remarks, &failure),
        }
    }
}

/// `file:PATH` with its path as gateways know files, whatever folder it is written in.
fn absolute(target: &str) -> String {
    let path = target.strip_prefix("file:").and_then(|path| std::path::absolute(path).ok());
    path.map_or_else(|| target.to_owned(), |path| format!("file:{}", file::without_dots(&path).display()))
}

fn fail(remarks: &mut dyn Write, error: &str) -> u8 {
    say(remarks, &format!("fleetgate: {}", printable(error)));
    FAILED
}

/// Whether the operator says yes; anything else is a no.
fn ask(answers: &mut impl BufRead, remarks: &mut dyn Write) -> bool {
    let _ = remarks.write_all(b"Accept the loss? [y/N] ").and_then(|()| remarks.flush());
    let mut answer = String::new();
    answers.read_line(&mut answer).is_ok() && matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes")
}

fn is_refused(hold: &Value) -> bool {
    hold.get("refused").is_some_and(|reason| !reason.is_null())
}

/// What would be lost, what follows, and what stays.
fn preview(items: &[Value]) -> String {
    let mut lines = vec!["This would be lost:".to_owned()];
    for hold in items.iter().filter(|hold| !is_refused(hold)) {
        let (id, why) = (text(hold.get("id")), text(hold.get("why")));
        lines.push(format!("  {id} of {}: {}", text(hold.get("provider")), lost(hold)));
        lines.push(format!("    held because {why}"));
        lines.extend(list(hold, "effects").iter().map(|effect| format!("    {}", text(Some(effect)))));
    }
    let stays: Vec<&Value> = items.iter().filter(|hold| is_refused(hold)).collect();
    if !stays.is_empty() {
        lines.push("This stays held:".to_owned());
        lines.extend(stays.iter().map(|hold| format!("  {}: {}", text(hold.get("id")), text(hold.get("refused")))));
    }
    lines.iter().map(|line| printable(line)).collect::<Vec<_>>().join("\n")
}

/// `3 endpoints (10.0.0.1:80, ...)`, or the names of documents.
fn lost(hold: &Value) -> String {
    let all = list(hold, "lost");
    let shown: Vec<String> = all.iter().take(MAX_SHOWN).map(|lost| text(Some(lost))).collect();
    let more = match all.len().saturating_sub(MAX_SHOWN) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let shown = format!("{}{more}", shown.join(", "));
    match text(hold.get("id")).starts_with("upstreams/") && shown.contains(':') {
        true if all.len() == 1 => format!("1 endpoint ({shown})"),
        true => format!("{} endpoints ({shown})", all.len()),
        false => shown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_preview_names_what_goes_what_follows_and_what_stays() {
        let addresses: Vec<String> = (1..=12).map(|host| format!("10.0.0.{host}:80")).collect();
        let items = [
            json!({
                "id": "upstreams/users", "provider": "consul", "why": "the registry lost what it had", "refused": null,
                "lost": addresses, "effects": ["route shop would answer 503"],
            }),
            json!({
                "id": "routes/shop", "provider": "consul-kv", "why": "its counter went back", "refused": null,
                "lost": ["routes/shop"], "effects": [],
            }),
            json!({
                "id": "upstreams/orders", "provider": "consul", "why": "", "lost": [], "effects": [],
                "refused": "the token may not read the service `orders`: it needs `service:read`",
            }),
        ];
        insta::assert_snapshot!(preview(&items), @"
This would be lost:
  upstreams/users of consul: 12 endpoints (10.0.0.1:80, 10.0.0.2:80, 10.0.0.3:80, 10.0.0.4:80, 10.0.0.5:80, 10.0.0.6:80, 10.0.0.7:80, 10.0.0.8:80, 10.0.0.9:80, 10.0.0.10:80 and 2 more)
    held because the registry lost what it had
    route shop would answer 503
  routes/shop of consul-kv: routes/shop
    held because its counter went back
This stays held:
  upstreams/orders: the token may not read the service `orders`: it needs `service:read`
");
    }

    #[test]
    fn only_a_yes_is_a_yes() {
        for (answer, accepted) in
            [("y\n", true), ("YES\n", true), ("\n", false), ("", false), ("n\n", false), ("yep\n", false)]
        {
            assert_eq!(ask(&mut answer.as_bytes(), &mut Vec::new()), accepted, "{answer:?}");
        }
    }
}
