//! Asking registries: the OCI distribution protocol, mirrors, credentials and TLS.
