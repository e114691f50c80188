//! Members that speak TLS and want a client's certificate, and files that are replaced while we run.

use std::fs;
use std::path::Path;

use super::*;
use crate::support::etcd::certificates;
use crate::support::proxy::Proxy;

fn with_tls(url: &str, folder: &Path) -> Settings {
    let file = |name: &str| Some(folder.join(name));
    let tls =
        ClientTls { ca: file("ca.pem"), certificate: file("client.pem"), key: file("client.key"), server_name: None };
    Settings { tls, ..settings([url]) }
}

#[tokio::test]
async fn a_member_is_verified_and_shown_a_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let Some((etcd, url)) = Etcd::start_with_tls(folder.path()).await else { return };
    etcd.put(&key("users", "a"), "10.0.0.1:80").await;
    let good = with_tls(&url, folder.path());
    let running = run(&good, &["users"]);
    running.shows(&of("users"), &["a 10.0.0.1:80"]).await;
    etcd.put(&key("users", "b"), "10.0.0.2:80").await;
    running.shows(&of("users"), &["a 10.0.0.1:80", "b 10.0.0.2:80"]).await;
    running.stop().await;

    let by_name = |name: &str| ClientTls { server_name: Some(name.to_owned()), ..good.tls.clone() };
    let running = run(&Settings { tls: by_name("server.dc1.consul"), ..good.clone() }, &["users"]);
    running.shows(&of("users"), &["a 10.0.0.1:80", "b 10.0.0.2:80"]).await;
    running.stop().await;

    for (bad, why) in [
        (by_name("other.example"), "certificate"),
        (ClientTls { ca: None, ..good.tls.clone() }, "UnknownIssuer"),
        // It is refused after the handshake of TLS 1.3 is over for us: what comes is an alert or a reset.
        (ClientTls { certificate: None, key: None, ..good.tls.clone() }, ""),
    ] {
        let running = run(&Settings { tls: bad, ..good.clone() }, &["users"]);
        let error = running.failing(&of("users").to_string()).await;
        assert!(error.contains(why) && error.contains(&url), "{why}: {error}");
        assert!(running.source(&of("users")).is_none());
        running.stop().await;
    }
}

#[tokio::test]
async fn replaced_certificates_are_used_without_a_restart() {
    let (folder, own) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let Some((etcd, url)) = Etcd::start_with_tls(folder.path()).await else { return };
    let install = |from: &Path, names: &[&str]| {
        for name in names {
            fs::copy(from.join(name), own.path().join(name)).unwrap();
        }
    };
    let other = tempfile::tempdir().unwrap();
    certificates(other.path(), etcd.address).unwrap();
    install(other.path(), &["ca.pem", "client.pem", "client.key"]);
    etcd.put(&key("users", "a"), "10.0.0.1:80").await;
    let proxy = Proxy::start(url.trim_start_matches("https://").parse().unwrap()).await;
    let running = run(&with_tls(&format!("https://{}", proxy.address()), own.path()), &["users"]);
    let name = of("users").to_string();
    assert!(running.failing(&name).await.contains("UnknownIssuer"));
    // The member is believed, and does not believe us, whose certificate is another authority's.
    install(folder.path(), &["ca.pem"]);
    let refused = || async {
        match running.watch(&name).state() {
            WatchState::Failing { error, .. } if !error.contains("UnknownIssuer") => Ok(()),
            other => Err(other),
        }
    };
    wait::until_ok(SOON, "another error", refused).await;
    assert!(running.source(&of("users")).is_none());
    // Half of a pair is of no use, and changes nothing; the whole is.
    install(folder.path(), &["client.pem"]);
    install(folder.path(), &["client.key"]);
    running.shows(&of("users"), &["a 10.0.0.1:80"]).await;

    // Files that are of no use change nothing, for what is open and for what comes.
    fs::write(own.path().join("client.pem"), "nonsense").unwrap();
    let live = || async { running.watch(&name).state() == WatchState::Live };
    wait::always(Duration::from_secs(3), "live while the files are looked at", live).await;
    let sessions = running.watch(&name).sessions();
    proxy.cut();
    wait::until(SOON, "the next session", || async { running.watch(&name).sessions() > sessions }).await;
    etcd.put(&key("users", "b"), "10.0.0.2:80").await;
    running.shows(&of("users"), &["a 10.0.0.1:80", "b 10.0.0.2:80"]).await;
    never_lost(&running, "users", "a 10.0.0.1:80");
    running.stop().await;
}

#[tokio::test]
async fn a_password_is_read_again_when_its_file_changes() {
    let Some(etcd) = Etcd::start().await else { return };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    fs::write(&file, "old-password\n").unwrap();
    etcd.put(&key("users", "a"), "10.0.0.1:80").await;
    etcd.enable_auth("root-secret").await;
    etcd.reader("gateway", "new-password", "/fleetgate/").await;
    let with_file = Settings { password_file: Some(file.clone()), ..with_user(&etcd.url(), "gateway", "old-password") };
    let running = run(&with_file, &["users"]);
    let error = running.failing(&of("users").to_string()).await;
    assert!(error.contains("authentication failed") && !error.contains("old-password"), "{error}");
    fs::write(&file, "").unwrap();
    fs::write(&file, "new-password\n").unwrap();
    running.shows(&of("users"), &["a 10.0.0.1:80"]).await;
    running.stop().await;
}
