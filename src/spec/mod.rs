//! What someone asked for, as plain data: names, routes, upstreams, sources, endpoints, and the pure
//! decoders that make them from text. Nothing here uses another folder of ours, and nothing does I/O, but for the
//! system's [`authority`] and the files that people name ([`file`]).

pub mod authority;
pub mod breaker;
pub mod cause;
pub mod certificate;
pub mod claims;
pub mod client_certificate;
pub mod condition;
pub mod consumer;
pub mod decode;
pub mod document;
pub mod encode;
pub mod endpoint;
pub mod file;
pub mod hold;
pub mod log_filter;
pub mod matching;
pub mod middleware;
pub mod name;
pub mod overlap;
pub mod passive;
pub mod path;
pub mod pattern;
pub mod percent;
pub mod problem;
pub mod retry;
pub mod route;
pub mod secret;
pub mod settings;
pub mod source;
pub mod upstream;
pub mod upstream_tls;
pub mod x509;
