//! Defines who we are to etcd: a user's password and the files of TLS, read again when they change.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use etcd_client::{Certificate, Client, ConnectOptions, Identity, TlsOptions};

use crate::discovery::secret_file::SecretFiles;
use crate::spec::file::MAX_ATTACHMENT_BYTES;
use crate::spec::settings::{ClientTls, EtcdProvider as Settings, Secret};

/// No password is longer; what is, is another file.
const LONGEST: usize = 4096;

/// What shows who we are. Files that are of no use change nothing.
pub(super) struct Credentials {
    user: Option<String>,
    password_file: Option<PathBuf>,
    tls: Option<ClientTls>,
    held: Mutex<Arc<Held>>,
    files: SecretFiles,
}

/// What was read last and could be used.
#[derive(Clone, Default, PartialEq)]
pub(super) struct Held {
    password: Option<Secret>,
    ca: Option<Vec<u8>>,
    /// The certificate and its key.
    identity: Option<(Vec<u8>, Vec<u8>)>,
    /// Whether the files of TLS were read.
    complete: bool,
}

impl Credentials {
    /// Those of the settings; nothing is read yet.
    pub(super) fn new(settings: &Settings) -> Self {
        let (user, password) = settings.user.clone().unzip();
        let secure = settings.endpoints.iter().any(|url| url.starts_with("https://"));
        Self {
            user,
            password_file: settings.password_file.clone(),
            tls: secure.then(|| settings.tls.clone()),
            held: Mutex::new(Arc::new(Held { password, ..Held::default() })),
            files: SecretFiles::default(),
        }
    }

    /// The user's name and password.
    pub(super) fn user(&self) -> Option<(String, String)> {
        let held = self.held();
        Some((self.user.clone()?, held.password.as_ref()?.expose().to_owned()))
    }

    /// How TLS is spoken, where the URL asks for it.
    ///
    /// # Errors
    /// The files are of no use.
    pub(super) async fn tls(&self, url: &str) -> Result<Option<TlsOptions>, String> {
        let Some(tls) = self.tls.as_ref().filter(|_| url.starts_with("https://")) else { return Ok(None) };
        if !self.held().complete {
            self.reread().await?;
        }
        Ok(Some(tls_options(tls, &self.held())))
    }

    /// Reads all files again; true when something is another now.
    ///
    /// # Errors
    /// Why they are of no use; what was held stays.
    pub(super) async fn reread(&self) -> Result<bool, String> {
        let before = self.held();
        let mut next = Held::clone(&before);
        if let (Some(path), Some(_)) = (&self.password_file, &self.user) {
            next.password = Some(password(&self.read(path).await?).map_err(|error| at(path, &error))?);
        }
        if let Some(tls) = &self.tls {
            next.complete = true;
            next.ca = match &tls.ca {
                Some(path) => Some(self.read(path).await?),
                None => None,
            };
            next.identity = match (&tls.certificate, &tls.key) {
                (Some(certificate), Some(key)) => Some((self.read(certificate).await?, self.read(key).await?)),
                _ => None,
            };
        }
        if next == *before {
            return Ok(false);
        }
        if let Some(tls) = &self.tls {
            try_out(tls, &next).await?;
        }
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(next);
        Ok(true)
    }

    async fn read(&self, path: &Path) -> Result<Vec<u8>, String> {
        self.files.read(path, MAX_ATTACHMENT_BYTES).await
    }

    /// Whether there is a file that may change.
    pub(super) fn may_change(&self) -> bool {
        let of_tls = |tls: &ClientTls| tls.ca.is_some() || tls.certificate.is_some();
        self.password_file.is_some() || self.tls.as_ref().is_some_and(of_tls)
    }

    fn held(&self) -> Arc<Held> {
        Arc::clone(&self.held.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A client that dials nobody shows whether the files are certificates, and whether the key is that of the
/// certificate: while they are being replaced, it is not.
async fn try_out(tls: &ClientTls, held: &Held) -> Result<(), String> {
    let options = ConnectOptions::new().with_tls(tls_options(tls, held));
    let tried = Client::connect(["https://127.0.0.1:2379"], Some(options)).await;
    tried.map(drop).map_err(|error| {
        let files = [&tls.ca, &tls.certificate, &tls.key].into_iter().flatten();
        let files: Vec<_> = files.map(|path| path.display().to_string()).collect();
        let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
        format!("{}: {error}{cause}", files.join(", "))
    })
}

fn tls_options(tls: &ClientTls, held: &Held) -> TlsOptions {
    let mut options = TlsOptions::new();
    options = match &held.ca {
        Some(pem) => options.ca_certificate(Certificate::from_pem(pem)),
        None => options.with_native_roots(),
    };
    if let Some((certificate, key)) = &held.identity {
        options = options.identity(Identity::from_pem(certificate, key));
    }
    if let Some(name) = &tls.server_name {
        options = options.domain_name(name.as_str());
    }
    options
}

/// The same as at the start: visible characters, without the newline at its end.
fn password(bytes: &[u8]) -> Result<Secret, &'static str> {
    let text = std::str::from_utf8(bytes).map_err(|_| "is not UTF-8")?.trim_end_matches(['\n', '\r']);
    if text.is_empty() || text.len() > LONGEST || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("is empty, or has other than visible ASCII characters");
    }
    Ok(Secret::new(text))
}

fn at(path: &Path, text: &dyn std::fmt::Display) -> String {
    format!("{}: {text}", path.display())
}
