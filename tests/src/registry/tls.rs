//! A certificate authority that nobody knows, and the server that it vouches for.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use std::path::Path;

/// An authority and one server's certificate, for `127.0.0.1` and `localhost`.
pub(super) struct Authority {
    ca_pem: String,
    server_pem: String,
    server_key_pem: String,
}

impl Authority {
    pub(super) fn new() -> Authority {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.distinguished_name.push(DnType::CommonName, "registry authority of a test");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let ca = params.self_signed(&key).expect("a certificate");
        let issuer = Issuer::new(params, key);
        let server_key = KeyPair::generate().expect("a key");
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let server = CertificateParams::new(names).expect("good names");
        let server = server.signed_by(&server_key, &issuer).expect("a certificate");
        Authority {
            ca_pem: pem("CERTIFICATE", ca.der()),
            server_pem: pem("CERTIFICATE", server.der()),
            server_key_pem: pem("PRIVATE KEY", &server_key.serialize_der()),
        }
    }

    pub(super) fn write(&self, dir: &Path) {
        std::fs::write(dir.join("ca.crt"), &self.ca_pem).expect("written");
        std::fs::write(dir.join("server.crt"), &self.server_pem).expect("written");
        std::fs::write(dir.join("server.key"), &self.server_key_pem).expect("written");
    }
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines = text.as_bytes().chunks(64).map(|line| String::from_utf8_lossy(line) + "\n");
    format!("-----BEGIN {label}-----\n{}-----END {label}-----\n", lines.collect::<String>())
}
