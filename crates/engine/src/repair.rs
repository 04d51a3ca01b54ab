//! Puts back what others remove of the pods' network.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tracing::warn;

use crate::error::on_pool;
use crate::network::{Network, NetworkError, Ports};
use crate::record::Phase;
use crate::state::{Core, Sandbox};

/// How often the network is looked at while there are pods: an administrator who flushes all rules cuts them off for
/// at most this long.
const REPAIR: Duration = Duration::from_secs(8);

/// Looks at once, and again after each pause, until the engine is gone.
pub(crate) async fn from_time_to_time(core: Weak<Core>) {
    loop {
        let Some(core) = core.upgrade() else { return };
        // One on the machine's network has no address, and needs no bridge.
        let connected = |sandbox: Arc<Sandbox>| {
            let (phase, address) = (sandbox.phase(), sandbox.state().address);
            let address = address.filter(|_| phase == Phase::Ready)?;
            Some((core.ports(&sandbox, address), sandbox))
        };
        let pods: Vec<(Ports, Arc<Sandbox>)> = core.sandboxes().into_iter().filter_map(connected).collect();
        let network = Arc::clone(&core.network);
        drop(core);
        if !pods.is_empty()
            && let Ok(Err(error)) = on_pool(move || repair_all(&network, &pods)).await
        {
            warn!(%error, "the pods' network cannot be checked");
        }
        tokio::time::sleep(REPAIR).await;
    }
}

/// Does what it can, and returns the first error.
fn repair_all(network: &Network, pods: &[(Ports, Arc<Sandbox>)]) -> Result<(), NetworkError> {
    let whole = network.is_whole()?;
    let repair_pod = |(ports, sandbox): &(Ports, Arc<Sandbox>)| {
        if whole && network.is_connected(ports)? {
            return Ok(());
        }
        // Whoever holds it may be stopping the sandbox, whose ports must not come back then, nor the bridge after its last
        // sandbox. The next round looks again.
        let Ok(_turn) = sandbox.turn.try_lock() else { return Ok(()) };
        if sandbox.phase() != Phase::Ready {
            return Ok(());
        }
        network.repair()?;
        if network.is_connected(ports)? { Ok(()) } else { network.reconnect(ports) }
    };
    pods.iter().map(repair_pod).fold(Ok(()), Result::and)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::SandboxRecord;
    use std::net::Ipv4Addr;
    use std::path::PathBuf;

    #[test]
    fn f_d03_nothing_comes_back_of_a_pod_that_is_stopped_since_it_was_listed() {
        let bridge = format!("kr{}", std::process::id());
        let network = Network::new(bridge.clone(), "10.255.255.0/29".parse().unwrap());
        let pod = |phase: Phase| {
            let record = SandboxRecord { phase: phase.into(), ..Default::default() };
            let ports = Ports {
                table: format!("{bridge}-pod"),
                link: "kv-none".to_owned(),
                pod: Ipv4Addr::new(10, 255, 255, 2),
                list: Vec::new(),
            };
            (ports, Arc::new(Sandbox::new("pod".to_owned(), PathBuf::from("/nonexistent"), record)))
        };
        let stopping = pod(Phase::Ready);
        let _turn = stopping.1.turn.try_lock().unwrap();
        let pods = [pod(Phase::NotReady), pod(Phase::Stopped), pod(Phase::Removed), stopping.clone()];
        repair_all(&network, &pods).unwrap();
        let came_back = PathBuf::from(format!("/proc/sys/net/ipv4/conf/{bridge}")).exists();
        network.remove().unwrap();
        assert!(!came_back, "the bridge came back");
    }
}
