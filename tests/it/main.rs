//! The one integration-test binary: a module a subject. What users notice goes here; pure decisions are
//! tested beside their code. `support` starts the real gateway, real registries and scripted services.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests, their helpers too, stop at what is wrong")]

mod admin;
mod architecture;
mod audit;
mod cli;
mod compose;
mod config;
mod consul;
mod demo;
mod descriptors;
mod desync;
mod dns;
mod etcd;
mod explain;
mod expressions;
mod files;
mod gateway_api;
mod grpc;
mod harness;
mod history;
mod http;
mod http2;
mod httplint;
mod live;
mod metrics;
mod middleware;
mod operator;
mod outputs;
mod own_addresses;
mod readme;
mod register;
mod routing_cost;
mod sample;
mod secrets;
mod server_sent_events;
mod signals;
#[allow(dead_code, unreachable_pub, reason = "each subject uses a part of it")]
mod support;
mod tls;
mod upstream_http2;
mod upstream_tls;
