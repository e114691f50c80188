//! What someone asked for, as plain data: names, routes, upstreams, sources, endpoints, and the pure
//! decoders that make them from text. Nothing here does I/O and nothing here uses another folder of ours.

pub mod certificate;
pub mod client_certificate;
pub mod decode;
pub mod document;
pub mod encode;
pub mod endpoint;
pub mod log_filter;
pub mod matching;
pub mod name;
pub mod path;
pub mod problem;
pub mod route;
pub mod settings;
pub mod source;
pub mod upstream;
pub mod x509;
