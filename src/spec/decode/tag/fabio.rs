//! Defines how fabio's `urlprefix-` tags are read: as fabio 1.6 reads them. Pure.
//!
//! `urlprefix-HOST/PATH OPTION...`: the host in lower case, the path as text (a request's path begins with it),
//! options by `KEY=VALUE`. Options that fabio does not know mean nothing, as there, but are reported. Other than there, what
//! looks like an option of access and says not who may come closes its route: an empty or misspelt `allow`, an address.

use std::net::IpAddr;
use std::sync::Arc;

use http::{HeaderValue, StatusCode, Uri};
use ipnet::IpNet;
use rustls::pki_types::ServerName;

use super::claim::Bounds;
use crate::spec::decode::condition::{parse_host, parse_path};
use crate::spec::decode::network::parse_network;
use crate::spec::decode::reader::nearest;
use crate::spec::matching::{Conditions, HostMatch, MatchSpec, PathMatch};
use crate::spec::route::{Access, HostPolicy, Redirect, Steps, StripPrefix};
use crate::spec::upstream::Protocol;
use crate::spec::upstream_tls::{Trust, UpstreamTls};

/// What such a tag begins with.
pub(super) const PREFIX: &str = "urlprefix-";

/// The host and path of a tag: services with the same one form one route.
pub(super) type Prefix = (Option<HostMatch>, String);

/// What the options of a tag ask for.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Asked {
    pub(super) steps: Option<Arc<Steps>>,
    /// The share of the route's requests that each instance gets; `None`: of what is left.
    pub(super) share: Option<f64>,
    /// TLS with the endpoints.
    pub(super) tls: Option<Arc<UpstreamTls>>,
    /// What they are spoken to in.
    pub(super) protocol: Protocol,
    /// Why it is not served.
    pub(super) broken: Option<String>,
}

impl Asked {
    /// Whether not everybody may come.
    pub(super) fn is_guarded(&self) -> bool {
        self.broken.is_some() || self.steps.as_ref().is_some_and(|steps| steps.access != Access::Anybody)
    }
}

/// A tag: where it is, and what it asks for, or what is wrong with that.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Tag {
    pub(super) prefix: Prefix,
    pub(super) asked: Result<Asked, Wrong>,
    /// What means nothing, though it is written.
    pub(super) ignored: Vec<String>,
}

/// What is wrong with the options of a tag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    pub(super) text: String,
    /// It is, or looks like, an option of access: without it the route would be open to everybody.
    pub(super) guards: bool,
}

/// The options that are read.
const OPTIONS: [&str; 10] =
    ["strip", "prepend", "host", "weight", "redirect", "allow", "deny", "auth", "proto", "tlsskipverify"];
/// Those that say who may come.
const ACCESS: [&str; 3] = ["allow", "deny", "auth"];
/// Options of fabio's that have no meaning here, and need none.
const NEEDLESS: [&str; 2] = ["register", "pxyproto"];

/// Whether a tag is one of fabio's, or may be meant to be.
pub(super) fn asks(tag: &str) -> bool {
    let tag = tag.trim();
    tag.starts_with(PREFIX) || misspelt(tag).is_some()
}

/// What follows in a tag that begins almost as those of fabio do: `URLPREFIX-`, `urlprefix_`, `urlprefx-`.
fn misspelt(tag: &str) -> Option<&str> {
    const WORD: &str = "urlprefix";
    // Of what begins so a prefix with one mistake has a half.
    let lower = || tag.to_ascii_lowercase();
    if tag.len() > 1024 || !tag.contains('/') || !["urlp", "efix"].iter().any(|half| lower().contains(half)) {
        return None;
    }
    let letters: Vec<(usize, char)> =
        tag.char_indices().filter(|(_, c)| c.is_alphanumeric()).take(WORD.len() + 1).collect();
    let ends = [WORD.len(), WORD.len() - 1, WORD.len() + 1].into_iter().filter_map(|length| {
        let word: String = letters.get(..length)?.iter().flat_map(|(_, c)| c.to_lowercase()).collect();
        let (distance, (at, last)) = (strsim::osa_distance(&word, WORD), letters[length - 1]);
        let end = at + last.len_utf8();
        let place = tag[end..].trim_start_matches(|c: char| !c.is_alphanumeric() && !matches!(c, '/' | '*' | '['));
        let place = place.strip_prefix("/-").unwrap_or(place);
        let rank = (tag[..end].contains('/') && distance > 0, place.len() == tag.len() - end, distance);
        (distance <= 1).then_some((rank, place))
    });
    ends.min_by_key(|(rank, _)| *rank).map(|(_, place)| place).filter(|place| place.contains('/'))
}

/// Reads a tag; `None` when it is another's.
///
/// # Errors
/// What is wrong with its host or path: then there is no route it could belong to.
pub(super) fn read(tag: &str, bounds: &Bounds) -> Option<Result<Tag, String>> {
    let (said, is_misspelt) = match tag.trim().strip_prefix(PREFIX) {
        Some(said) if !said.starts_with(['-', '_', '=']) => (said.trim(), false),
        Some(_) | None => (misspelt(tag.trim())?.trim(), true),
    };
    let (place, options) = said.split_once(char::is_whitespace).unwrap_or((said, ""));
    let is_list = place.contains(&format!(",{PREFIX}"));
    if is_list || options.split_whitespace().any(|option| option.starts_with(PREFIX)) {
        return Some(Err("has two prefixes: register a tag for each".to_owned()));
    }
    // `/path,allow=ip:...` is a path, and was hardly meant as one.
    if let Some(at) = access_within(place) {
        let text = format!("`{}` belongs to the path: write a blank before an option", &place[at..]);
        return Some(prefix(&place[..at], bounds).map_err(|_| text.clone()).map(|prefix| Tag {
            prefix,
            asked: Err(Wrong { text, guards: true }),
            ignored: Vec::new(),
        }));
    }
    Some(prefix(place, bounds).map(|prefix| {
        let mut ignored = Vec::new();
        if is_misspelt {
            let text = format!("almost a tag of fabio's, which begins with `{PREFIX}`");
            return Tag { prefix, asked: Err(Wrong { text, guards: false }), ignored };
        }
        let asked = asked(options, &mut ignored);
        if let Ok(Asked { steps: Some(steps), .. }) = &asked
            && let Some(strip) = &steps.strip_prefix
            && !strip.as_str().starts_with(&prefix.1)
            && !prefix.1.starts_with(strip.as_str())
        {
            let (strip, path) = (strip.as_str(), &prefix.1);
            ignored.push(format!(
                "`strip={strip}` never applies: no path that begins with `{path}` begins with `{strip}`"
            ));
        }
        Tag { prefix, asked, ignored }
    }))
}

/// Where an option of access begins in a path, with what parts it from the rest, if anything does.
fn access_within(place: &str) -> Option<usize> {
    let marks = place.char_indices().filter(|(_, c)| matches!(c, ',' | ';' | '?' | '&' | '|'));
    let is_access =
        |rest: &str| ACCESS.iter().any(|key| rest.strip_prefix(key).is_some_and(|it| it.starts_with(['=', ':'])));
    let at = marks.into_iter().find(|(at, _)| is_access(&place[at + 1..])).map(|(at, _)| at);
    at.or_else(|| ["allow=ip:", "deny=ip:"].iter().find_map(|option| place.find(option)))
}

/// What a route of this prefix matches.
pub(super) fn matching((host, path): &Prefix) -> MatchSpec {
    let path = if path == "/" { PathMatch::Prefix(String::new()) } else { PathMatch::Start(path.clone()) };
    MatchSpec { hosts: host.iter().cloned().collect(), path, methods: Vec::new(), conditions: Conditions::default() }
}

/// A tag of this prefix, without options.
pub(super) fn tag_of((host, path): &Prefix) -> String {
    let host = host.as_ref().map(ToString::to_string).unwrap_or_default();
    format!("{PREFIX}{host}{path}")
}

fn prefix(place: &str, bounds: &Bounds) -> Result<Prefix, String> {
    let Some(at) = place.find('/') else {
        return Err(if place.starts_with(':') {
            "asks for a TCP port, and this is a gateway for HTTP".to_owned()
        } else {
            format!("`{place}`: a path is missing: `{PREFIX}{place}/`")
        });
    };
    let (host, path) = place.split_at(at);
    if place.contains('$') {
        return Err(format!("`{place}`: variables are not expanded: write what `$DC` stands for"));
    }
    // fabio: a port is the listener's, 80 for one without TLS.
    let bare = host.strip_suffix(":80").unwrap_or(host);
    let host = match bare {
        "" => None,
        _ if bare.contains(':') && !bare.starts_with('[') => {
            return Err(format!(
                "`{host}`: the port of a host is ignored here, so that this route cannot be told: remove it"
            ));
        }
        _ => Some(parse_host(bare)?),
    };
    let prefix = (host, parse_path(path)?);
    bounds.check(&matching(&prefix))?;
    Ok(prefix)
}

fn asked(options: &str, ignored: &mut Vec<String>) -> Result<Asked, Wrong> {
    let mut asked = Asked::default();
    let mut steps = Steps::default();
    let (mut secure, mut unverified) = (None, false);
    // Of an option that comes twice the last one counts.
    for option in options.split_whitespace() {
        let (key, value) = option.split_once('=').unwrap_or((option, ""));
        let wrong = |error: String| Wrong { text: format!("`{option}`: {error}"), guards: ACCESS.contains(&key) };
        match key {
            "strip" if value.is_empty() => steps.strip_prefix = None,
            "strip" => {
                let path = parse_path(value).and_then(|path| StripPrefix::new(&path));
                steps.strip_prefix = Some(path.map_err(wrong)?);
            }
            "prepend" if value.is_empty() => steps.prepend = None,
            "prepend" => {
                let path = if value.starts_with('/') { value.to_owned() } else { format!("/{value}") };
                steps.prepend = Some(parse_path(&path).map_err(wrong)?);
            }
            "host" => steps.host = host(value).map_err(wrong)?,
            "weight" => asked.share = share(value).map_err(wrong)?,
            "redirect" => steps.redirect = Some(redirect(value).map_err(wrong)?),
            // fabio serves everybody then; a template whose variable is empty means somebody.
            "allow" | "deny" if value.is_empty() => {
                return Err(wrong("empty value: remove the option if everybody may come".to_owned()));
            }
            "allow" | "deny" if steps.access != Access::Anybody => {
                return Err(wrong("only one of `allow` and `deny`, and once".to_owned()));
            }
            "allow" => steps.access = Access::Only(networks(value).map_err(wrong)?),
            "deny" => steps.access = Access::Except(networks(value).map_err(wrong)?),
            "auth" => {
                asked.broken = Some(format!("`{option}`: authentication is not available; it is never served without"))
            }
            "proto" => match value {
                "http" => (secure, asked.protocol) = (None, Protocol::Http1),
                "https" => (secure, asked.protocol) = (Some(value), Protocol::Http1),
                "grpc" => (secure, asked.protocol) = (None, Protocol::Http2),
                "grpcs" => (secure, asked.protocol) = (Some(value), Protocol::Http2),
                _ => asked.broken = Some(format!("`{option}`: endpoints are spoken to in HTTP and gRPC only")),
            },
            "tlsskipverify" => unverified = value == "true",
            _ if NEEDLESS.contains(&key) => {}
            _ => {
                if let Some(access) = ACCESS.into_iter().find(|access| resembles(key, access)) {
                    let text = format!(
                        "`{option}`: unknown option; did you mean `{access}`? The route is never served without"
                    );
                    return Err(Wrong { text, guards: true });
                }
                if is_network(option.split_once('=').map_or(key, |(_, value)| value)) {
                    let text = format!(
                        "`{option}`: unknown option with an address; did you mean `allow` or `deny`? The route is never \
                         served without"
                    );
                    return Err(Wrong { text, guards: true });
                }
                ignored.push(format!("`{option}`: unknown option, ignored; {}", nearest(key, &OPTIONS)));
            }
        }
    }
    if let Some(proto) = secure {
        match tls(&steps.host, unverified, asked.protocol) {
            Ok(tls) => asked.tls = Some(Arc::new(tls)),
            Err(error) => asked.broken = Some(format!("`proto={proto}`: {error}")),
        }
    }
    asked.steps = (steps != Steps::default()).then(|| Arc::new(steps));
    Ok(asked)
}

/// Whether an option looks like a mistake for one of access: `alow`, `Deny`, `allow:ip`, `auth_basic`.
fn resembles(key: &str, access: &str) -> bool {
    let word: String = key.chars().take_while(|c| *c != ':').filter(char::is_ascii_alphanumeric).collect();
    let word = word.to_ascii_lowercase();
    word.starts_with(access) || strsim::normalized_damerau_levenshtein(&word, access) >= 0.7
}

/// Whether a value says whose address may come: `ip:10.0.0.0/8`, `10.0.0.1`.
fn is_network(value: &str) -> bool {
    let is_address = |item: &str| item.trim().parse::<IpNet>().is_ok() || item.trim().parse::<IpAddr>().is_ok();
    value.to_ascii_lowercase().contains("ip:") || value.split([',', '=']).any(is_address)
}

/// `dst` is the endpoint's address, anything else is sent as it is.
fn host(value: &str) -> Result<HostPolicy, String> {
    if matches!(value, "" | "dst") {
        return Ok(if value.is_empty() { HostPolicy::Kept } else { HostPolicy::Endpoint });
    }
    let authority: http::uri::Authority = value.parse().map_err(|_| "not a host".to_owned())?;
    if authority.as_str().contains('@') {
        return Err("a host has no user".to_owned());
    }
    HeaderValue::from_str(value).map(HostPolicy::Fixed).map_err(|_| "not a host".to_owned())
}

/// Verified by the system's authorities, for the name that is sent as `Host`, else for the endpoint's own.
fn tls(host: &HostPolicy, unverified: bool, protocol: Protocol) -> Result<UpstreamTls, String> {
    let name = host.name().and_then(|name| ServerName::try_from(name).ok());
    UpstreamTls::new(name, if unverified { Trust::Anybody } else { Trust::System }, None, protocol)
}

/// 0 and less leave the share open, as in fabio.
fn share(value: &str) -> Result<Option<f64>, String> {
    let share: f64 = value.parse().map_err(|_| "a weight is a share such as `0.25`".to_owned())?;
    if !share.is_finite() {
        return Err("a weight is a share such as `0.25`".to_owned());
    }
    Ok((share > 0.0).then_some(share))
}

/// `CODE,URL`
fn redirect(value: &str) -> Result<Redirect, String> {
    let form = "write `redirect=CODE,URL` with a code from 300 to 399";
    let (code, url) = value.split_once(',').filter(|(_, url)| !url.contains(',')).ok_or(form)?;
    let status = code.parse().ok().filter(|code| (300..400).contains(code));
    let status = status.and_then(|code| StatusCode::from_u16(code).ok()).ok_or(form)?;
    let (scheme, rest) = match url.split_once("://") {
        Some((scheme @ ("http" | "https"), rest)) => (Some(scheme), rest),
        Some(_) => return Err("a redirect leads to `http://` or `https://`".to_owned()),
        None if url.starts_with('/') && !url.starts_with("//") => (None, url),
        None => return Err(form.to_owned()),
    };
    let (rest, query) = rest.split_once('?').map_or((rest, None), |(rest, query)| (rest, Some(query.to_owned())));
    // `https://host$path` has no slash of its own; `/$path` is one slash.
    let (host, path) = match (rest.find('/'), rest.find("$path")) {
        (Some(slash), Some(variable)) => rest.split_at(slash.min(variable)),
        (Some(at), None) | (None, Some(at)) => rest.split_at(at),
        (None, None) => (rest, ""),
    };
    let path = path.replacen("/$path", "$path", 1);
    let path = if path.is_empty() { "/".to_owned() } else { path };
    let origin = scheme.map_or_else(String::new, |scheme| format!("{scheme}://{host}"));
    // What it makes must be a URI, whatever stands for the variables.
    let query_text = query.as_deref().map(|query| format!("?{query}")).unwrap_or_default();
    let made = format!("{origin}{path}{query_text}").replace("$host", "h").replacen("$path", "/p", 1);
    made.parse::<Uri>().map_err(|_| format!("`{url}` is not a URL"))?;
    if scheme.is_some() && host.is_empty() || made.contains('#') {
        return Err(format!("`{url}` is not a URL"));
    }
    Ok(Redirect { status, origin, path, query })
}

/// `ip:NETWORK,ip:ADDRESS`
fn networks(value: &str) -> Result<Vec<IpNet>, String> {
    let network = |item: &str| {
        let wrong = || format!("`{item}` is not `ip:ADDRESS` or `ip:NETWORK/BITS`");
        let (kind, address) = item.split_once(':').ok_or_else(wrong)?;
        if !kind.trim().eq_ignore_ascii_case("ip") {
            return Err(wrong());
        }
        parse_network(address.trim()).map_err(|error| format!("{}: {error}", wrong()))
    };
    value.split(',').map(network).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(tag: &str) -> String {
        match read(tag, &Bounds::default()) {
            None => "not one".to_owned(),
            Some(Err(error)) => format!("no place: {error}"),
            Some(Ok(Tag { prefix: (host, path), asked, ignored })) => {
                let ignored = ignored.iter().map(|text| format!(" ignored: {text}")).collect::<String>();
                let host = host.map_or_else(String::new, |host| host.to_string());
                match asked {
                    Err(Wrong { text, guards }) => {
                        format!("{host}{path} {}: {text}", if guards { "closed" } else { "wrong" })
                    }
                    Ok(Asked { steps, share, tls, protocol, broken }) => {
                        let mut steps = steps.map_or_else(String::new, |steps| shown(&steps));
                        if let Some(tls) = tls {
                            let name = tls.server_name.as_ref().map(ServerName::to_str);
                            steps += &format!(" tls {name:?} verified {}", tls.verifies());
                        }
                        if protocol != Protocol::Http1 {
                            steps += &format!(" {}", protocol.as_str());
                        }
                        let share = share.map_or_else(String::new, |share| format!(" {share}"));
                        let broken = broken.map_or_else(String::new, |broken| format!(" broken: {broken}"));
                        format!("{host}{path}{steps}{share}{broken}{ignored}")
                    }
                }
            }
        }
    }

    fn shown(steps: &Steps) -> String {
        let mut text = String::new();
        match &steps.access {
            Access::Anybody => {}
            Access::Only(networks) => text += &format!(" only {networks:?}"),
            Access::Except(networks) => text += &format!(" except {networks:?}"),
        }
        if let Some(Redirect { status, origin, path, query }) = &steps.redirect {
            text += &format!(" {status} {origin}|{path}|{query:?}");
        }
        if let Some(strip) = &steps.strip_prefix {
            text += &format!(" strip {}", strip.as_str());
        }
        if let Some(prepend) = &steps.prepend {
            text += &format!(" prepend {prepend}");
        }
        match &steps.host {
            HostPolicy::Kept => {}
            HostPolicy::Endpoint => text += " host of endpoint",
            HostPolicy::Fixed(host) => text += &format!(" host {host:?}"),
        }
        text
    }

    /// The forms of fabio's documentation, and mistakes.
    #[test]
    fn tags_are_read_as_fabio_reads_them() {
        for (tag, wanted) in [
            ("urlprefix-/css", "/css"),
            ("urlprefix-i.com/static", "i.com/static"),
            (" urlprefix- MySite.com/ ", "mysite.com/"),
            ("urlprefix-*.site.com/", "*.site.com/"),
            ("urlprefix-site.com:80/", "site.com/"),
            ("urlprefix-/Foo/", "/Foo/"),
            ("urlprefix-/foo/bar strip=/foo", "/foo/bar strip /foo"),
            ("urlprefix-/bar prepend=/foo", "/bar prepend /foo"),
            ("urlprefix-/bar prepend=foo", "/bar prepend /foo"),
            ("urlprefix-/foo host=dst", "/foo host of endpoint"),
            ("urlprefix-/foo host=foo.com", "/foo host \"foo.com\""),
            ("urlprefix-/foo weight=0.2", "/foo 0.2"),
            ("urlprefix-/foo weight=0", "/foo"),
            ("urlprefix-/foo weight=-1", "/foo"),
            ("urlprefix-/foo  weight=0.2   strip=/foo", "/foo strip /foo 0.2"),
            (
                "urlprefix-/path redirect=301,https://www.google.com/",
                "/path 301 Moved Permanently https://www.google.com|/|None",
            ),
            (
                "urlprefix-/path redirect=303,https://www.foo.com$path",
                "/path 303 See Other https://www.foo.com|$path|None",
            ),
            ("urlprefix-/p redirect=302,https://$host/a/$path?b", "/p 302 Found https://$host|/a$path|Some(\"b\")"),
            ("urlprefix-/p redirect=302,/other", "/p 302 Found |/other|None"),
            ("urlprefix-/ allow=ip:10.0.0.0/8,ip:fe80::1234", "/ only [10.0.0.0/8, fe80::1234/128]"),
            ("urlprefix-/ deny=ip:1.2.3.4", "/ except [1.2.3.4/32]"),
            (
                "urlprefix-/ proto=http qqq=x",
                "/ ignored: `qqq=x`: unknown option, ignored; known are strip, prepend, host, weight, redirect, allow, deny, \
                 auth, proto, tlsskipverify",
            ),
            ("urlprefix-/ strp=/x", "/ ignored: `strp=/x`: unknown option, ignored; did you mean `strip`?"),
            ("urlprefix-/a Strip=/a", "/a ignored: `Strip=/a`: unknown option, ignored; did you mean `strip`?"),
            ("urlprefix-/a  pxyproto=true", "/a"),
            ("urlprefix-/a strip=/a/b", "/a strip /a/b"),
            (
                "urlprefix-/a strip=/b",
                "/a strip /b ignored: `strip=/b` never applies: no path that begins with `/a` begins with `/b`",
            ),
            (
                "urlprefix-/a alow=ip:10.0.0.1",
                "/a closed: `alow=ip:10.0.0.1`: unknown option; did you mean `allow`? The route is never served without",
            ),
            (
                "urlprefix-/a Allow=ip:10.0.0.1",
                "/a closed: `Allow=ip:10.0.0.1`: unknown option; did you mean `allow`? The route is never served without",
            ),
            (
                "urlprefix-/a denny=ip:10.0.0.1",
                "/a closed: `denny=ip:10.0.0.1`: unknown option; did you mean `deny`? The route is never served without",
            ),
            (
                "urlprefix-/a AUTH=team",
                "/a closed: `AUTH=team`: unknown option; did you mean `auth`? The route is never served without",
            ),
            (
                "urlprefix-/a allow:ip:10.0.0.1",
                "/a closed: `allow:ip:10.0.0.1`: unknown option; did you mean `allow`? The route is never served without",
            ),
            (
                "urlprefix-/a allow= path=/b",
                "/a closed: `allow=`: empty value: remove the option if everybody may come",
            ),
            ("urlprefix-/a deny=", "/a closed: `deny=`: empty value: remove the option if everybody may come"),
            ("urlprefix-/a allow", "/a closed: `allow`: empty value: remove the option if everybody may come"),
            (
                "urlprefix-/a permit=ip:10.0.0.1",
                "/a closed: `permit=ip:10.0.0.1`: unknown option with an address; did you mean `allow` or `deny`? The route \
                 is never served without",
            ),
            (
                "urlprefix-/a IP:10.0.0.1/32",
                "/a closed: `IP:10.0.0.1/32`: unknown option with an address; did you mean `allow` or `deny`? The route is \
                 never served without",
            ),
            (
                "urlprefix-/a from=10.0.0.0/8,x",
                "/a closed: `from=10.0.0.0/8,x`: unknown option with an address; did you mean `allow` or `deny`? The route \
                 is never served without",
            ),
            (
                "urlprefix-/a,allow=ip:10.0.0.1",
                "/a closed: `,allow=ip:10.0.0.1` belongs to the path: write a blank before an option",
            ),
            ("URLPREFIX-/a allow=ip:10.0.0.1", "/a wrong: almost a tag of fabio's, which begins with `urlprefix-`"),
            ("urlprefix_a.com/b", "a.com/b wrong: almost a tag of fabio's, which begins with `urlprefix-`"),
            ("urlprefx-/a", "/a wrong: almost a tag of fabio's, which begins with `urlprefix-`"),
            ("urlprefix/a", "/a wrong: almost a tag of fabio's, which begins with `urlprefix-`"),
            ("url.rewrite=/prefix", "not one"),
            ("urlprefix-/a, urlprefix-/b", "no place: has two prefixes: register a tag for each"),
            ("urlprefix-/a,urlprefix-/b", "no place: has two prefixes: register a tag for each"),
            ("urlprefix-/a urlprefix-/b", "no place: has two prefixes: register a tag for each"),
            ("urlprefix-/a register=name", "/a"),
            ("traefik.enable=true", "not one"),
            ("urlprefix-/foo/bar proto=https tlsskipverify=true", "/foo/bar tls None verified false"),
            (
                "urlprefix-/foo/bar proto=https tlsskipverify=true host=a.com:8443",
                "/foo/bar host \"a.com:8443\" tls Some(\"a.com\") verified false",
            ),
            ("urlprefix-/foo/bar proto=https tlsskipverify=true proto=http", "/foo/bar"),
            ("urlprefix-/s proto=grpc", "/s http2"),
            ("urlprefix-/s proto=grpcs tlsskipverify=true", "/s tls None verified false http2"),
            ("urlprefix-/s proto=grpc proto=https tlsskipverify=true", "/s tls None verified false"),
            ("urlprefix-/s proto=tcp+sni", "/s broken: `proto=tcp+sni`: endpoints are spoken to in HTTP and gRPC only"),
            (
                "urlprefix-/s auth=basic",
                "/s broken: `auth=basic`: authentication is not available; it is never served without",
            ),
            ("urlprefix-:3306 proto=tcp", "no place: asks for a TCP port, and this is a gateway for HTTP"),
            ("urlprefix-foo", "no place: `foo`: a path is missing: `urlprefix-foo/`"),
            (
                "urlprefix-$DC.foo.com/",
                "no place: `$DC.foo.com/`: variables are not expanded: write what `$DC` stands for",
            ),
            (
                "urlprefix-foo.com:8080/",
                "no place: `foo.com:8080`: the port of a host is ignored here, so that this route cannot be told: remove it",
            ),
            ("urlprefix-/a weight=x", "/a wrong: `weight=x`: a weight is a share such as `0.25`"),
            ("urlprefix-/a weight=NaN", "/a wrong: `weight=NaN`: a weight is a share such as `0.25`"),
            ("urlprefix-/a strip=a", "/a wrong: `strip=a`: `a`: a path begins with `/`"),
            (
                "urlprefix-/a allow=10.0.0.1",
                "/a closed: `allow=10.0.0.1`: `10.0.0.1` is not `ip:ADDRESS` or `ip:NETWORK/BITS`",
            ),
            (
                "urlprefix-/a deny=ip:::ffff:10.0.0.0/8",
                "/a closed: `deny=ip:::ffff:10.0.0.0/8`: `ip:::ffff:10.0.0.0/8` is not `ip:ADDRESS` or `ip:NETWORK/BITS`: \
                 `::ffff:10.0.0.0/8` has IPv4-mapped addresses and others: write the IPv4 network, such as `10.0.0.0/8` for \
                 `::ffff:10.0.0.0/104`, or `0.0.0.0/0` for all of IPv4",
            ),
            (
                "urlprefix-/a redirect=200,http://a/",
                "/a wrong: `redirect=200,http://a/`: write `redirect=CODE,URL` with a code from 300 to 399",
            ),
            (
                "urlprefix-/a redirect=301,ftp://a/",
                "/a wrong: `redirect=301,ftp://a/`: a redirect leads to `http://` or `https://`",
            ),
        ] {
            assert_eq!(told(tag), wanted, "{tag}");
        }
    }
}
