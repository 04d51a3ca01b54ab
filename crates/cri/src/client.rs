//! A runtime behind a socket: containerd, CRI-O or anything else that speaks CRI v1 over gRPC.
//!
//! The connection is made when it is first needed and made again whenever it broke; every call has a time limit, so
//! that a runtime that hangs shows as [`Code::DeadlineExceeded`](crate::Code::DeadlineExceeded) of that call.

mod answer;
mod calls;
mod streaming;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint as Target, Uri};

use crate::settling::Settling;
use crate::v1::image_service_client::ImageServiceClient;
use crate::v1::runtime_service_client::RuntimeServiceClient;

/// No message is larger, as upstream has it: a list of thousands of containers.
const MESSAGE_MAX_BYTES: usize = 16 << 20;
/// For the connection alone; a socket in the file system answers at once or not at all.
const CONNECT_WITHIN: Duration = Duration::from_secs(3);
/// While a call or an event stream is open the runtime is asked whether it lives, and given up after the second.
const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(30);
const KEEP_ALIVE_WITHIN: Duration = Duration::from_secs(20);

/// The socket of a runtime.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint(PathBuf);

/// Why a text is no endpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    #[error("endpoint {found:?}: a kubelet and its runtime share a machine; expected unix:///path/to/socket")]
    Scheme { found: String },
    #[error("endpoint {found:?}: the path is not absolute; expected unix:///path/to/socket")]
    Relative { found: String },
}

impl Endpoint {
    /// `unix:///run/containerd/containerd.sock`, or the path alone.
    ///
    /// # Errors
    /// Another scheme, or a path that is not absolute.
    pub fn parse(text: &str) -> Result<Self, EndpointError> {
        let path = match text.split_once("://") {
            Some(("unix", path)) => path,
            Some(_) => return Err(EndpointError::Scheme { found: text.to_owned() }),
            None => text,
        };
        if !Path::new(path).is_absolute() {
            return Err(EndpointError::Relative { found: text.to_owned() });
        }
        Ok(Self(PathBuf::from(path)))
    }

    /// The socket's path.
    pub fn path(&self) -> &Path {
        &self.0
    }

    fn channel(&self) -> Channel {
        let path = self.0.clone();
        let connector = tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        // The name is never resolved: the connector knows the socket.
        Target::from_static("http://localhost")
            .connect_timeout(CONNECT_WITHIN)
            .http2_keep_alive_interval(KEEP_ALIVE_EVERY)
            .keep_alive_timeout(KEEP_ALIVE_WITHIN)
            .connect_with_connector_lazy(connector)
    }
}

/// Where a runtime is and how long its calls may take.
#[derive(Debug, Clone)]
pub struct Config {
    pub runtime: Endpoint,
    /// The image service, where it is another process; else the runtime's.
    pub images: Option<Endpoint>,
    /// For every call that does not wait for containers or registries by its nature; upstream's default is 2 minutes.
    pub call_within: Duration,
    /// A pull that takes longer is given up.
    pub pull_within: Duration,
}

/// The client. Cheap to clone; all clones share the connections.
#[derive(Debug, Clone)]
pub struct Client {
    runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
    settling: Arc<Settling>,
    call_within: Duration,
    pull_within: Duration,
}

impl Client {
    /// A client that connects on its first call. Must be made within a tokio runtime.
    pub fn new(config: &Config) -> Self {
        let channel = config.runtime.channel();
        let images = config.images.as_ref().map_or_else(|| channel.clone(), Endpoint::channel);
        Self {
            runtime: RuntimeServiceClient::new(channel)
                .max_decoding_message_size(MESSAGE_MAX_BYTES)
                .max_encoding_message_size(MESSAGE_MAX_BYTES),
            images: ImageServiceClient::new(images)
                .max_decoding_message_size(MESSAGE_MAX_BYTES)
                .max_encoding_message_size(MESSAGE_MAX_BYTES),
            settling: Arc::default(),
            call_within: config.call_within,
            pull_within: config.pull_within,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_sockets_of_this_machine() {
        let path = Path::new("/run/containerd/containerd.sock");
        for text in ["unix:///run/containerd/containerd.sock", "/run/containerd/containerd.sock"] {
            assert_eq!(Endpoint::parse(text).unwrap().path(), path);
        }
        for text in ["tcp://127.0.0.1:1234", "npipe:////./pipe/x", "http://h/run/x.sock"] {
            assert!(matches!(Endpoint::parse(text), Err(EndpointError::Scheme { .. })), "{text}");
        }
        for text in ["unix://run/x.sock", "run/x.sock", "", "unix://"] {
            assert!(matches!(Endpoint::parse(text), Err(EndpointError::Relative { .. })), "{text}");
        }
    }
}
