use std::path::Path;

use rcgen::{CertificateParams, KeyPair, SignatureAlgorithm};

use super::*;
use crate::spec::decode::files::{FileSet, FileText};
use crate::spec::decode::format::Format;
use crate::spec::decode::item::decode_item;
use crate::spec::document::{Documents, Item};

/// A chain and its key, as PEM texts.
fn pem(hosts: &[&str], algorithm: &'static SignatureAlgorithm) -> (String, String) {
    let key = KeyPair::generate_for(algorithm).unwrap();
    let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
    (CertificateParams::new(hosts).unwrap().self_signed(&key).unwrap().pem(), key.serialize_pem())
}

fn pair(hosts: &[&str]) -> (String, String) {
    pem(hosts, &rcgen::PKCS_ECDSA_P256_SHA256)
}

/// The document of a registry.
fn decoded(document: &serde_json::Value) -> Result<CertificateSpec, String> {
    decode_item(document.to_string().as_bytes(), Some(Format::Json), "kv")
        .map_err(|problems| problems.iter().map(|problem| format!("{problem}\n")).collect())
}

#[test]
fn hosts_are_the_certificates_own_unless_given() {
    let (cert, key) = pair(&["b.example.com", "*.Example.org", "a.example.com"]);
    let hosts = |certificate: &CertificateSpec| certificate.hosts.iter().map(ToString::to_string).collect::<Vec<_>>();
    let own = decoded(&serde_json::json!({ "cert": cert, "key": key })).unwrap();
    assert_eq!((hosts(&own).join(" "), own.default), ("a.example.com b.example.com *.example.org".to_owned(), false));
    let given = serde_json::json!({ "cert": cert, "key": key, "hosts": ["X.com", "x.com"], "default": true });
    let given = decoded(&given).unwrap();
    assert_eq!((hosts(&given).join(" "), given.default), ("x.com".to_owned(), true));
    assert_ne!(own, given);
    let again = decoded(&serde_json::json!({ "cert": format!("\n{cert}"), "key": key })).unwrap();
    assert_eq!(own, again, "what says the same must not look changed");
}

#[test]
fn keys_of_the_usual_kinds_are_read() {
    for algorithm in [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519] {
        let (cert, key) = pem(&["a.example.com"], algorithm);
        decoded(&serde_json::json!({ "cert": cert, "key": key })).unwrap();
    }
}

#[test]
fn what_is_no_pair_is_told_with_its_place_and_shows_nothing_of_a_key() {
    let (cert, key) = pair(&["a.example.com"]);
    let (_, other) = pair(&["a.example.com"]);
    let (nameless, its_key) = pair(&[]);
    let secret: String = key.lines().filter(|line| !line.starts_with('-')).collect();
    let cut = key.replace("-----END PRIVATE KEY-----", "");
    let encrypted = key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
    let bad = [
        serde_json::json!({}),
        serde_json::json!({ "cert": cert, "key": other }),
        serde_json::json!({ "cert": key, "key": cert }),
        serde_json::json!({ "cert": cert, "key": cut }),
        serde_json::json!({ "cert": cert, "key": encrypted }),
        serde_json::json!({ "cert": cert, "key": secret }),
        serde_json::json!({ "cert": secret, "key": key }),
        serde_json::json!({ "cert": cert.replace('M', "!"), "key": key }),
        serde_json::json!({ "cert": "cert.pem", "key": "key.pem", "hosts": ["a:443", 5] }),
        serde_json::json!({ "cert": nameless, "key": its_key, "hosts": [] }),
        serde_json::json!({ "cert": cert, "key": { "pem": key }, "kee": key }),
        serde_json::json!({ "cert": cert.replace("MII", "MIJ"), "key": key }),
    ];
    let told: Vec<String> = bad.iter().map(|document| decoded(document).unwrap_err()).collect();
    assert!(told.iter().all(|text| !text.contains(&secret[..16]) && !text.contains(&secret[40..56])), "{told:?}");
    let without_columns = |text: &str| {
        let lines = text.lines().map(|line| line.split_once(": ").map_or(line, |(_, rest)| rest));
        lines.collect::<Vec<_>>().join("\n")
    };
    insta::assert_snapshot!(told.iter().map(|text| without_columns(text)).collect::<Vec<_>>().join("\n--\n"), @"
`cert` is missing
`key` is missing
--
key: it is not the key of the certificate: give the two that belong together
--
cert: there is no certificate in it: PEM text with `-----BEGIN CERTIFICATE-----` is wanted
key: there is no private key in it: PEM text with `-----BEGIN PRIVATE KEY-----` is wanted
--
key: it is no PEM text of a private key
--
key: it is encrypted: give the key without a passphrase
--
key: PEM text is wanted here, which begins with `-----BEGIN`: only documents from files may name files
--
cert: PEM text is wanted here, which begins with `-----BEGIN`: only documents from files may name files
--
cert: it is no PEM text of certificates
--
cert: PEM text is wanted here, which begins with `-----BEGIN`: only documents from files may name files
key: PEM text is wanted here, which begins with `-----BEGIN`: only documents from files may name files
hosts[0]: `a:443`: write the host without its port, which is ignored (an IPv6 address in brackets)
hosts[1]: expected a text, found a number: put it in quotes
--
cert: it names no host: give `hosts`, or `default = true`
hosts: the list is empty: remove the key to take the certificate's own names
--
key: expected a text, found a table
kee: unknown key; did you mean `key`?
--
cert: it is no X.509 certificate
");
}

#[test]
fn broken_documents_show_nothing_of_a_key() {
    let (cert, key) = pair(&["a.example.com"]);
    let body: String = key.lines().filter(|line| !line.starts_with('-')).collect();
    for (format, text) in [
        (None, key.clone()),
        (None, format!("cert = {cert}\nkey = {key}")),
        (None, format!("key = \"{key}\"")),
        (None, format!("{{\"key\": \"{key}\"}}")),
        (None, format!("{{\"key\": \"{body}")),
        (Some(Format::Yaml), format!("key: |\n{key}\ncert: x")),
        (Some(Format::Yaml), format!("key: \"{body}\n{body}\": [")),
        (Some(Format::Toml), format!("key = '''{key}")),
        (Some(Format::Toml), format!("{body} = 1")),
        (Some(Format::Toml), format!("\"{body}\" = 1")),
    ] {
        let problems = decode_item::<CertificateSpec>(text.as_bytes(), format, "kv").unwrap_err();
        let told: String = problems.iter().map(|problem| format!("{problem}\n")).collect();
        assert!(!told.contains(&body[..16]) && !told.contains(&body[40..56]), "{text}: {told}");
    }
}

/// A configuration file beside a folder of files.
struct Files {
    folder: tempfile::TempDir,
    set: FileSet,
    text: String,
}

impl Files {
    fn new(text: &str) -> Self {
        let set = FileSet::reading(|path: &Path| std::fs::read(path).map_err(|error| error.to_string()));
        Self { folder: tempfile::tempdir().unwrap(), set, text: text.to_owned() }
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.folder.path().join(name), text).unwrap();
    }

    fn update(&mut self) -> Documents {
        let path = self.folder.path().join("fleetgate.toml").display().to_string();
        let file = FileText {
            path,
            format: Format::Toml,
            main: true,
            bytes: Ok(self.text.clone().into_bytes()),
            writing: None,
        };
        self.set.update(vec![file])
    }

    fn web(&mut self) -> Item<CertificateSpec> {
        self.update().certificates["web"].clone()
    }
}

#[test]
fn files_that_are_named_are_read_again_and_a_bad_pair_changes_nothing() {
    let mut files = Files::new("[certificates.web]\ncert = \"cert.pem\"\nkey = \"key.pem\"\n");
    let absent = files.web();
    assert_eq!((absent.good, absent.problems.len()), (None, 2), "{:?}", absent.problems);
    assert!(
        absent.problems[0].to_string().contains("fleetgate.toml:2:8: certificates.web.cert"),
        "{:?}",
        absent.problems
    );

    let (cert, key) = pair(&["a.example.com"]);
    files.write("cert.pem", &cert);
    files.write("key.pem", &key);
    let first = files.web();
    assert!(first.problems.is_empty(), "{:?}", first.problems);
    assert_eq!(files.set.attached(), ["cert.pem", "key.pem"].map(|name| files.folder.path().join(name)).into());

    // Half of a new pair, then the other half.
    let (cert, key) = pair(&["b.example.com"]);
    files.write("cert.pem", &cert);
    let half = files.web();
    assert_eq!(half.good, first.good);
    assert!(half.problems[0].text.contains("not the key of the certificate"), "{:?}", half.problems);
    files.write("key.pem", &key);
    let second = files.web();
    assert!(second.problems.is_empty() && second.good != first.good);

    std::fs::remove_file(files.folder.path().join("key.pem")).unwrap();
    let gone = files.web();
    assert_eq!((gone.good, gone.problems.len()), (second.good, 1));
}
