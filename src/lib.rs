//! Fleetgate: a gateway for fleets of machines that are not on Kubernetes.

pub mod admin;
pub mod app;
pub mod cli;
pub mod config;
pub mod control;
pub mod discovery;
pub mod exchange;
pub mod health;
pub mod proxy;
pub mod snapshot;
pub mod spec;
pub mod telemetry;
