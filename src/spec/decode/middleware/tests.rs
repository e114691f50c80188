//! What middlewares are read as, and what mistakes in them are told.

use super::*;
use crate::spec::decode::item::decode_item;
use crate::spec::encode;

fn read(text: &str) -> Result<MiddlewareSpec, Vec<String>> {
    let told = |problems: Vec<crate::spec::problem::Problem>| problems.iter().map(ToString::to_string).collect();
    decode_item(text.as_bytes(), None, "kv").map_err(told)
}

/// What is shown of a middleware reads as the same middleware.
#[test]
fn what_is_shown_is_what_was_written() {
    for (text, shown) in [
        (r#"strip_prefix = "/users/""#, r#"{"strip_prefix":"/users"}"#),
        (r#"{"add_prefix": "//v1"}"#, r#"{"add_prefix":"/v1"}"#),
        (r#"rewrite.path = "/a/../b""#, r#"{"rewrite":{"path":"/b"}}"#),
        (
            r#"rewrite = { path.prefix = "/", host = "A.test:81" }"#,
            r#"{"rewrite":{"path":{"prefix":"/"},"host":"a.test:81"}}"#,
        ),
        (
            r#"rewrite.path = { regex = "^/u/(?<id>[0-9]+)", to = "/users/${id}" }"#,
            r#"{"rewrite":{"path":{"regex":"^/u/(?<id>[0-9]+)","to":"/users/${id}"}}}"#,
        ),
        (
            r#"headers = { request = { set = { X-A = "${client_ip}" }, remove = ["x-b"] }, response.add.X-C = "$$" }"#,
            r#"{"headers":{"request":{"set":{"x-a":"${client_ip}"},"remove":["x-b"]},"response":{"add":{"x-c":"$$"}}}}"#,
        ),
        (r#"redirect.scheme = "https""#, r#"{"redirect":{"scheme":"https","status":302}}"#),
        (
            r#"redirect = { host = "[::1]", port = 81, path = "/x", query = "", status = 308 }"#,
            r#"{"redirect":{"host":"[::1]","port":81,"path":"/x","query":"","status":308}}"#,
        ),
        (
            r#"respond = { body = "hi", headers.X-A = "1" }"#,
            r#"{"respond":{"status":200,"content_type":"text/plain; charset=utf-8","body":"hi","headers":{"x-a":"1"}}}"#,
        ),
        (
            r#"maintenance = { body = "later", allow = ["10.0.0.1", "fd00::/8"] }"#,
            r#"{"maintenance":{"retry_after":"5m","content_type":"text/plain; charset=utf-8","body":"later","allow":["10.0.0.1/32","fd00::/8"]}}"#,
        ),
        ("maintenance = {}", r#"{"maintenance":{"retry_after":"5m"}}"#),
        (
            r#"error_pages.pages = { 5xx.body = "no", 404 = { body = "{}", content_type = "application/json" } }"#,
            r#"{"error_pages":{"pages":{"404":{"content_type":"application/json","body":"{}"},"5xx":{"content_type":"text/html; charset=utf-8","body":"no"}},"services":false}}"#,
        ),
        (
            r#"security_headers = { hsts = {}, frame_options = "", permissions_policy = "camera=()" }"#,
            r#"{"security_headers":{"hsts":{"max_age":"8760h","include_subdomains":false,"preload":false},"frame_options":"","content_type_options":"nosniff","referrer_policy":"strict-origin-when-cross-origin","permissions_policy":"camera=()","cross_origin_opener_policy":"same-origin","override":false}}"#,
        ),
        (
            r#"cors = { origins = ["https://A.com", "https://*.b.com"], headers = ["X-A"], credentials = true, max_age = "1h" }"#,
            r#"{"cors":{"origins":["https://a.com","https://*.b.com"],"methods":["GET","HEAD","POST"],"headers":["x-a"],"expose":[],"credentials":true,"max_age":"1h"}}"#,
        ),
        (
            r#"compression = { encodings = ["gzip"], types = ["text/*"] }"#,
            r#"{"compression":{"encodings":["gzip"],"types":["text/*"],"min_size":"1024B"}}"#,
        ),
        (r#"ip = { allow = [], deny = ["10.0.0.0/8"] }"#, r#"{"ip":{"allow":[],"deny":["10.0.0.0/8"]}}"#),
        ("api_key = {}", r#"{"api_key":{"header":"x-api-key","forward":false,"optional":false}}"#),
        (
            r#"client_certificate = { consumer = "uri", groups = ["a"] }"#,
            r#"{"client_certificate":{"consumer":"uri","optional":false,"groups":["a"]}}"#,
        ),
        (
            r#"require = [{ groups = ["a"], claims.b = "c", methods = ["GET"], paths = ["/d/"], ips = ["::1"], when.query.e = "f" }]"#,
            r#"{"require":[{"groups":["a"],"claims":{"b":"c"},"methods":["GET"],"paths":["/d"],"ips":["::1/128"],"when":{"query":{"e":"f"}}}]}"#,
        ),
        (
            r#"rate_limit.rate = "300/m""#,
            r#"{"rate_limit":{"rate":"300/m","burst":5,"key":["client_ip"],"headers":true,"max_keys":65536,"scope":"gateway"}}"#,
        ),
        (
            r#"rate_limit = { rate = "1/s", scope = "fleet" }"#,
            r#"{"rate_limit":{"rate":"1/s","burst":1,"key":["client_ip"],"headers":true,"max_keys":65536,"scope":"fleet","without_redis":"share"}}"#,
        ),
        (
            r#"concurrency = { limit = 7, key = ["header.X-A", "claims.sub"] }"#,
            r#"{"concurrency":{"limit":7,"key":["header.x-a","claims.sub"]}}"#,
        ),
        (r#"body_limit = "1KiB""#, r#"{"body_limit":"1024B"}"#),
        (
            r#"forward_auth = { upstream = "auth", path = "/v", consumer = "X-User" }"#,
            r#"{"forward_auth":{"upstream":"auth","path":"/v","timeout":"2s","request_headers":["authorization","cookie"],"response_headers":[],"consumer":"x-user"}}"#,
        ),
        (
            r#"fault = { delay.time = "1s", abort = { status = 500, percent = "0.5%" }, when.headers.x-test = "1" }"#,
            r#"{"fault":{"delay":{"time":"1s","percent":"100%"},"abort":{"status":500,"percent":"0.5%"},"when":{"headers":{"x-test":"1"}}}}"#,
        ),
    ] {
        let spec = read(text).unwrap_or_else(|problems| panic!("{text}: {problems:?}"));
        assert_eq!(encode::middleware(&spec).to_string(), shown, "{text}");
        assert_eq!(read(shown), Ok(spec), "{shown}");
    }
}

#[test]
fn what_may_be_a_secret_is_not_shown() {
    for (text, shown) in [
        (r#"forward_auth = { upstream = "auth", path = "/v?t=SECRET" }"#, r#""path":"/v?...""#),
        (
            r#"jwt = { issuers = ["i"], audience = [], jwks_url = "https://u:SECRET@a.test/k?t=SECRET" }"#,
            r#""jwks_url":"https://...@a.test/k?...""#,
        ),
        (r#"headers.request = { set.Authorization = "Bearer SECRET" }"#, r#"{"set":{"authorization":"..."}}"#),
        (r#"headers.request = { add.X-Api-Key = "SECRET" }"#, r#"{"add":{"x-api-key":"..."}}"#),
        (r#"respond.headers = { Set-Cookie = "SECRET" }"#, r#""headers":{"set-cookie":"..."}"#),
        (r#"headers.request = { set.DPoP = "SECRET" }"#, r#"{"set":{"dpop":"..."}}"#),
        (
            r#"headers.request = { add.X-Goog-Iap-Jwt-Assertion = "SECRET" }"#,
            r#"{"add":{"x-goog-iap-jwt-assertion":"..."}}"#,
        ),
        (r#"require = [{ when.cookies.a = "SECRET" }]"#, r#""when":{"cookies":{"a":"..."}}"#),
        (r#"require = [{ when.cookies.a.regex = "^SECRET" }]"#, r#""when":{"cookies":{"a":"..."}}"#),
        (r#"require = [{ when.query.sig = "SECRET" }]"#, r#""when":{"query":{"sig":"..."}}"#),
        (r#"require = [{ when.headers.dpop = "SECRET" }]"#, r#""when":{"headers":{"dpop":"..."}}"#),
        (r#"require = [{ when.cookies.a.present = true }]"#, r#""when":{"cookies":{"a":{"present":true}}}"#),
    ] {
        let spec = read(text).unwrap_or_else(|problems| panic!("{text}: {problems:?}"));
        let encoded = encode::middleware(&spec).to_string();
        assert!(encoded.contains(shown) && !encoded.contains("SECRET"), "{encoded}");
    }
}

#[test]
fn what_may_be_a_secret_is_not_shown_in_mistakes_either() {
    for (text, wanted) in [
        (
            r#"require = [{ when.headers.X-Api-Key.regex = "(SECRET" }]"#,
            "require[0].when.headers.X-Api-Key.regex: `...` is not a regular expression: unclosed group",
        ),
        (
            r#"require = [{ when.query.token.regex = "SECRET[" }]"#,
            "require[0].when.query.token.regex: `...` is not a regular expression: unclosed character class",
        ),
        (
            r#"require = [{ when.cookies.at.regex = "SECRET(?P<" }]"#,
            "require[0].when.cookies.at.regex: `...` is not a regular expression: ",
        ),
        (
            r#"require = [{ when.headers.dpop.regex = "SECRET\\w{1000}{1000}" }]"#,
            "require[0].when.headers.dpop.regex: `...` is too large a regular expression",
        ),
        (
            r#"headers.request.set = { authorization = "SECRET${SECRET}" }"#,
            "headers.request.set.authorization: is not the value of a header, and not shown, for it may be a secret",
        ),
        (
            r#"headers.request.add = { dpop = "SECRET\r\n" }"#,
            "headers.request.add.dpop: is not the value of a header, and not shown, for it may be a secret",
        ),
        (
            r#"respond.headers = { set-cookie = "SECRET\r\n" }"#,
            "respond.headers.set-cookie: `...` is not the value of a header: it has control characters",
        ),
        (
            r#"require = [{ when.headers.x-a.regex = "(SHOWN" }]"#,
            "require[0].when.headers.x-a.regex: `(SHOWN` is not a regular expression: unclosed group",
        ),
    ] {
        let told = read(text).expect_err(text).join("\n");
        assert!(told.contains(wanted) && !told.contains("SECRET"), "{told}");
    }
}

#[test]
fn mistakes_are_told() {
    for (text, wanted) in [
        (
            "strip_prefix = \"/a\"\nadd_prefix = \"/b\"",
            "has several types: make a middleware of `strip_prefix` alone, and others of the rest",
        ),
        ("strip_prefix = \"a\"", "strip_prefix: `a`: a path begins with `/`"),
        ("add_prefix = \"/\"", "add_prefix: `/` changes no path"),
        ("strip_prefx = \"/a\"", "strip_prefx: unknown key; did you mean `strip_prefix`?"),
        (
            "rate_limit = { rate = \"1/s\", without_redis = \"open\" }",
            "rate_limit.without_redis: says something with `scope = \"fleet\"` only",
        ),
        ("rewrite = {}", "rewrite: changes nothing: give `path` or `host`"),
        ("rewrite.host = \"a:0\"", "rewrite.host: `a:0` has no port from 1 to 65535 behind its colon"),
        ("rewrite.host = \"*.a\"", "rewrite.host: `*.a` is not one host"),
        (
            "rewrite.path = { regex = \"(\", to = \"/\" }",
            "rewrite.path.regex: `(` is not a regular expression: unclosed group",
        ),
        ("rewrite.path = { regex = \"a\", to = \"/$1\" }", "rewrite.path.regex: `/$1`: `a` has no group `1`"),
        (
            "rewrite.path = { regex = \"a\", to = \"/b?c=1\" }",
            "rewrite.path.to: `/b?c=1`: a path holds no `?` and no `#`; a redirect's `query` says its query, and else the \
             request's stays",
        ),
        (
            "redirect.path = { regex = \"a\", to = \"/b#c\" }",
            "redirect.path.to: `/b#c`: a path holds no `?` and no `#`; a redirect's `query` says its query, and else the \
             request's stays",
        ),
        (
            "rewrite.path = { regex = \"a\" }",
            "rewrite.path: give `prefix`, or `regex` and `to`, or a text for the whole path",
        ),
        (
            "headers.request.set = { Host = \"a\" }",
            "headers.request.set.Host: a middleware `rewrite` gives another `host`",
        ),
        (
            "headers.response.remove = [\"Content-Length\"]",
            "headers.response.remove[0]: `content-length` belongs to the connection, not to the message",
        ),
        (
            "headers.request.add = { X-Forwarded-For = \"a\" }",
            "headers.request.add.X-Forwarded-For: `x-forwarded-for` is the gateway's own: it tells who asks, and by \
             which way",
        ),
        (
            "headers.request.add = { a = \"${path\" }",
            "headers.request.add.a: `${path`: a `$` begins a value, `${NAME}`; write `$$` for a dollar",
        ),
        (
            "headers.request.add = { a = \"a\\r\\nb: c\" }",
            "headers.request.add.a: \"a\\r\\nb: c\" is not the value of a header: it has control characters",
        ),
        ("redirect = {}", "redirect: leads nowhere else: give `scheme`, `host`, `port`, `path`, `query` or `status`"),
        ("redirect.status = 305", "redirect.status: 305 is none of 301, 302, 303, 307 and 308"),
        ("redirect.scheme = \"ftp\"", "redirect.scheme: `ftp` is neither `http` nor `https`"),
        ("redirect.query = \"a b\"", "redirect.query: `a b`: a query holds no spaces, no `#` and ASCII alone"),
        ("respond = { status = 204, body = \"a\" }", "respond.body: an answer of 204 has no body"),
        ("error_pages = {}", "error_pages.pages: there is no page: give one by its status, such as `404` or `5xx`"),
        (
            "error_pages.pages.200.body = \"\"",
            "error_pages.pages.200: `200` is neither a status from 400 to 599 nor `4xx` nor `5xx`",
        ),
        (
            "security_headers.hsts.preload = true",
            "security_headers.hsts.preload: takes a `max_age` of 365 days (`8760h`) at least, and \
             `include_subdomains`",
        ),
        ("cors = {}", "cors: say whose pages: give `origins`, or `origins = [\"*\"]` for all"),
        (
            "cors.origins = [\"https://a.com/\"]",
            "cors.origins[0]: `https://a.com/` is not an origin, such as `https://example.com` or \
             `https://*.example.com:8443`",
        ),
        ("cors = { origins = [\"*\", \"https://a.com\"] }", "cors.origins: `*` is all: it stands alone"),
        (
            "compression.encodings = [\"deflate\"]",
            "compression.encodings[0]: `deflate` is none of `zstd`, `br` and `gzip`",
        ),
        (
            "compression.types = [\"text\"]",
            "compression.types[0]: `text` is not a media type, such as `text/*` or `application/json`",
        ),
        ("ip = {}", "ip: changes nothing: give `allow` or `deny`"),
        ("ip = { deny = [] }", "ip: changes nothing: give `allow` or `deny`"),
        ("ip.deny = [\"10.0.0.0/33\"]", "ip.deny[0]: `10.0.0.0/33` is not a network such as `10.0.0.0/8`"),
        (
            "api_key = { header = \"a\", cookie = \"b\" }",
            "api_key: `header`, `query` and `cookie` exclude each other: make a middleware of each",
        ),
        ("basic.realm = \"a\\\"b\"", "basic.realm: is plain ASCII, without quotes and backslashes"),
        ("require = [{}]", "require[0]: the rule asks nothing: everybody would be let in"),
        ("require = []", "require: there is no rule: nobody would be let in; a middleware `respond` says that"),
        ("rate_limit = {}", "rate_limit: say how many, by `rate`"),
        ("rate_limit.rate = \"5\"", "rate_limit.rate: `5` is not a rate, such as `100/s`, `5/m`, `1000/h` or `20/d`"),
        (
            "rate_limit = { rate = \"1/s\", key = [\"ip\"] }",
            "rate_limit.key[0]: `ip` is none of `client_ip`, `consumer`, `route`, `header.NAME` and `claims.NAME`",
        ),
        ("concurrency = {}", "concurrency: say how many, by `limit`"),
        ("jwt = {}", "jwt: say who makes the tokens, by `issuers`"),
        ("jwt = {}", "jwt: say for whom tokens are, by `audience`; `audience = []` takes those for others, too"),
        ("jwt = {}", "jwt: say what tokens are signed with: give `jwks_url`, `jwks`, `keys` or `secret`"),
        (
            "jwt = { jwks_url = \"http://login.test/jwks\" }",
            "jwt.jwks_url: `http://login.test/jwks`: keys that come in plain text prove nothing: take `https`",
        ),
        ("jwt = { jwks = \"{}\", secret = \"x\" }", "jwt: `jwks_url`, `jwks`, `keys` and `secret` exclude each other"),
        ("jwt.secret = \"hunter2\"", "jwt.secret: is too short: it takes 32 bytes at least"),
        (
            "jwt = { jwks = \"{}\", algorithms = [\"RS256\", \"HS256\"] }",
            "jwt.algorithms: `HS...` goes with `secret` alone, and all others with keys",
        ),
        (
            "jwt.algorithms = [\"none\"]",
            "jwt.algorithms[0]: `none` is none of `RS256`, `RS384`, `RS512`, `PS256`, `PS384`, `PS512`, `ES256`, `ES384`, \
             `EdDSA`, `HS256`, `HS384`, `HS512`",
        ),
        (
            "jwt.keys = [\"key.pem\"]",
            "jwt.keys[0]: PEM text is wanted here, which begins with `-----BEGIN`: only documents from files may name files",
        ),
        ("forward_auth = {}", "forward_auth: say whom to ask, by `upstream`"),
        (
            "forward_auth = { upstream = \"auth\", path = \"verify\" }",
            "forward_auth.path: `verify`: a path begins with `/`",
        ),
        ("fault = {}", "fault: nothing goes wrong: give `delay` or `abort`"),
        ("fault.abort.percent = \"7\"", "fault.abort.percent: `7` is not a percentage: write `1%`, `0.5%` or `100%`"),
        ("fault.delay = {}", "fault.delay: say how long, by `time`"),
    ] {
        let told = read(text).expect_err(text);
        let problems: Vec<&str> = told.iter().filter_map(|problem| Some(problem.split_once(": ")?.1)).collect();
        assert!(problems.contains(&wanted), "{text}: {told:#?}");
    }
    assert_eq!(read("strip_prefix = \"a\"").unwrap_err(), ["kv:1:16: strip_prefix: `a`: a path begins with `/`"]);
    let nothing = read("{}").expect_err("no type");
    assert!(nothing[0].starts_with("kv:1:1: has no type: give one of `strip_prefix`, `add_prefix`, "), "{nothing:?}");
}

/// A middleware that names a header, and the place of that name.
const NAMES_A_HEADER: [(&str, &str); 11] = [
    ("headers.request.set = { \"NAME\" = \"1\" }", "headers.request.set.NAME"),
    ("headers.request.add = { \"NAME\" = \"1\" }", "headers.request.add.NAME"),
    ("headers.request.remove = [\"x-a\", \"NAME\"]", "headers.request.remove[1]"),
    ("headers.response.set = { \"NAME\" = \"1\" }", "headers.response.set.NAME"),
    ("respond.headers = { \"NAME\" = \"1\" }", "respond.headers.NAME"),
    (
        "forward_auth = { upstream = \"auth\", response_headers = [\"x-a\", \"NAME\"] }",
        "forward_auth.response_headers[1]",
    ),
    ("forward_auth = { upstream = \"auth\", request_headers = [\"NAME\"] }", "forward_auth.request_headers[0]"),
    ("forward_auth = { upstream = \"auth\", consumer = \"NAME\" }", "forward_auth.consumer"),
    ("jwt = { issuers = [\"i\"], audience = [], jwks = \"{}\", claims = { sub = \"NAME\" } }", "jwt.claims.sub"),
    ("jwt = { issuers = [\"i\"], audience = [], jwks = \"{}\", header = \"NAME\" }", "jwt.header"),
    ("api_key.header = \"NAME\"", "api_key.header"),
];

/// The places where a name is refused, with what is said of it there.
fn refused(name: &str) -> Vec<(&'static str, String)> {
    let told = |(text, place): &(&str, &'static str)| {
        let problems = read(&text.replace("NAME", name)).err()?;
        let start = format!("{}: ", place.replace("NAME", name));
        let why = problems.iter().find_map(|problem| Some(problem.split_once(&start)?.1.to_owned()));
        Some((*place, why.unwrap_or_else(|| panic!("{place} of {name}: {problems:?}"))))
    };
    NAMES_A_HEADER.iter().filter_map(told).collect()
}

#[test]
fn headers_of_the_connection_are_named_nowhere() {
    for name in [
        "connection",
        "Content-Length",
        "content_length",
        "http2-settings",
        "keep-alive",
        "proxy-connection",
        "TE",
        "trailer",
        "transfer-encoding",
        "Transfer.Encoding",
        "upgrade",
    ] {
        let refused = refused(name);
        assert_eq!(refused.len(), NAMES_A_HEADER.len(), "{name}: {refused:?}");
        let wanted = format!("`{}` belongs to the connection, not to the message", name.to_ascii_lowercase());
        assert!(refused.iter().all(|(_, why)| *why == wanted), "{name}: {refused:?}");
    }
    for name in ["*", "x-*"] {
        let refused = refused(name);
        assert_eq!(refused.len(), NAMES_A_HEADER.len(), "{name}: {refused:?}");
        assert!(refused.iter().all(|(_, why)| why.ends_with("write the name of each header")), "{name}: {refused:?}");
    }
    for name in ["x-user", "authorization", "x-forwarded-user", "contentlength", "x-te"] {
        assert_eq!(refused(name), [], "{name}");
    }
}

#[test]
fn headers_that_route_or_identify_a_request_are_not_set_by_others_and_prove_nothing() {
    let sets = ["headers.request.set.NAME", "headers.request.add.NAME", "headers.request.remove[1]"];
    let tells = ["forward_auth.response_headers[1]", "jwt.claims.sub"];
    let (question, proofs) = ("forward_auth.request_headers[0]", ["jwt.header", "api_key.header"]);
    let own = |name: &str| format!("`{name}` is the gateway's own: it tells who asks, and by which way");
    let asked = |name: &str| format!("`{name}` is in every question: leave it out");
    for (name, edited, in_question, as_proof) in [
        (
            "host",
            Some("a middleware `rewrite` gives another `host`".to_owned()),
            Some(asked("host")),
            Some("`host` names the host that is asked for, and proves nothing".to_owned()),
        ),
        ("x-request-id", Some(own("x-request-id")), Some(asked("x-request-id")), Some(own("x-request-id"))),
        ("x_request_id", Some(own("x_request_id")), Some(asked("x_request_id")), Some(own("x_request_id"))),
        ("via", Some(own("via")), Some(asked("via")), Some(own("via"))),
        ("x-forwarded-for", Some(own("x-forwarded-for")), Some(asked("x-forwarded-for")), Some(own("x-forwarded-for"))),
        ("x-real-ip", Some(own("x-real-ip")), None, Some(own("x-real-ip"))),
        (
            "cookie",
            None,
            None,
            Some("holds many cookies: name the one that is meant by `cookie = \"NAME\"` instead".to_owned()),
        ),
    ] {
        let mut wanted = Vec::new();
        wanted.extend(edited.iter().flat_map(|why| sets.iter().chain(&tells).map(move |place| (*place, why.clone()))));
        wanted.extend(in_question.iter().map(|why| (question, why.clone())));
        wanted.extend(as_proof.iter().flat_map(|why| proofs.iter().map(move |place| (*place, why.clone()))));
        let mut told = refused(name);
        told.sort();
        wanted.sort();
        assert_eq!(told, wanted, "{name}");
    }
    let places = |name: &str| refused(name).iter().map(|(place, _)| *place).collect::<Vec<_>>();
    let of_expect = [sets[0], sets[1], tells[0], question, tells[1], proofs[0], proofs[1]];
    assert_eq!(places("expect"), of_expect, "a request may lose it");
    assert_eq!(places("x-consumer"), [tells[1], proofs[0], proofs[1]]);
}
