//! The files that a `rediss://` URL names: who may vouch for the server, and who we are.
//!
//! `rediss://:PASSWORD@HOST:6380?ca=/etc/redis/ca.pem&cert=/…/worker.pem&key=/…/worker.key`, each part optional; without
//! `ca` the machine's own list of authorities counts.

use std::path::Path;
use std::sync::Once;

use redis::{ClientTlsConfig, ConnectionInfo, IntoConnectionInfo, TlsCertificates};
use url::Url;

use crate::error::{Error, Result};

/// Largest file of certificates that is read, in bytes.
const FILE_BYTES: u64 = 4 * 1024 * 1024;

/// Whether a URL asks for TLS.
pub(super) fn is_asked_for(url: &str) -> bool {
    url.starts_with("rediss://")
}

/// How to connect by a `rediss://` URL. `shown` is the URL without its password.
pub(super) fn connection_info(url: &str, shown: &str) -> Result<ConnectionInfo> {
    static PROVIDER: Once = Once::new();
    // A program that has chosen another one keeps it.
    PROVIDER.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
    let wrong = |what: String| {
        Error::usage(format!("the Redis URL {shown}: {what}"))
            .hint("as in rediss://:PASSWORD@HOST:6380?ca=/etc/redis/ca.pem&cert=/PATH/client.pem&key=/PATH/client.key")
    };
    let mut parsed = Url::parse(url).map_err(|error| wrong(error.to_string()))?;
    if parsed.fragment().is_some() {
        return Err(wrong("a server that nobody vouches for is not connected to; name its authority with ca".into()));
    }
    let (mut ca, mut cert, mut key) = (None, None, None);
    // In a file's name a + is a +.
    let query = parsed.query().unwrap_or_default().replace('+', "%2B");
    for (name, file) in url::form_urlencoded::parse(query.as_bytes()) {
        let place = match &*name {
            "ca" => &mut ca,
            "cert" => &mut cert,
            "key" => &mut key,
            other => return Err(wrong(format!("{other} is not known; there are ca, cert and key"))),
        };
        *place = Some(read(Path::new(&*file)).map_err(|error| wrong(format!("{name}: {error}")))?);
    }
    let client_tls = match (cert, key) {
        (Some(client_cert), Some(client_key)) => Some(ClientTlsConfig { client_cert, client_key }),
        (None, None) => None,
        (Some(_), None) => return Err(wrong("cert needs its key".into())),
        (None, Some(_)) => return Err(wrong("key needs its cert".into())),
    };
    parsed.set_query(None);
    let certificates = TlsCertificates { client_tls, root_cert: ca };
    let info = parsed.as_str().into_connection_info().map_err(|error| wrong(error.to_string()))?;
    let client = redis::Client::build_with_tls(info, certificates).map_err(|error| wrong(error.to_string()))?;
    Ok(client.get_connection_info().clone())
}

fn read(file: &Path) -> std::result::Result<Vec<u8>, String> {
    let cannot = |error: std::io::Error| format!("cannot read {}: {error}", file.display());
    if std::fs::metadata(file).map_err(cannot)?.len() > FILE_BYTES {
        return Err(format!("{} is too large for certificates", file.display()));
    }
    std::fs::read(file).map_err(cannot)
}
