//! Ports of the machine's that a pod asks for.

use cri::v1;

use crate::network::HostPort;
use cri::Refused;

/// More than this are no pod's.
const MAX_PORTS: usize = 1024;

/// Those of a pod with a network of its own.
///
/// # Errors
/// A mapping that cannot be made.
pub(crate) fn host_ports(config: &v1::PodSandboxConfig) -> Result<Vec<HostPort>, Refused> {
    let asked: Vec<_> = config.port_mappings.iter().filter(|mapping| mapping.host_port != 0).collect();
    if asked.len() > MAX_PORTS {
        let fault = format!("{} host ports: at most {MAX_PORTS} are possible", asked.len());
        return Err(Refused::new("port_mappings", fault));
    }
    asked.into_iter().map(host_port).collect()
}

fn host_port(mapping: &v1::PortMapping) -> Result<HostPort, Refused> {
    let port = |field: &str, value: i32| {
        u16::try_from(value)
            .ok()
            .filter(|port| *port > 0)
            .ok_or_else(|| Refused::new(&format!("port_mappings.{field}"), format!("{value}: expected 1 to 65535")))
    };
    let protocol = match v1::Protocol::try_from(mapping.protocol) {
        Ok(v1::Protocol::Tcp) => 6,
        Ok(v1::Protocol::Udp) => 17,
        Ok(v1::Protocol::Sctp) => 132,
        Err(_) => return Err(Refused::new("port_mappings.protocol", format!("{} is unknown", mapping.protocol))),
    };
    let host_ip = match mapping.host_ip.as_str() {
        "" | "0.0.0.0" | "::" => None,
        text => Some(text.parse().map_err(|_| {
            Refused::new("port_mappings.host_ip", format!("{text:?}: expected an IPv4 address, or none for all"))
        })?),
    };
    Ok(HostPort {
        protocol,
        host_ip,
        host_port: port("host_port", mapping.host_port)?,
        container_port: port("container_port", mapping.container_port)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings_are_read_and_bad_ones_refused_by_name() {
        let mapping = |protocol: i32, container_port, host_port, host_ip: &str| v1::PortMapping {
            protocol,
            container_port,
            host_port,
            host_ip: host_ip.into(),
        };
        let read = |mapping| {
            host_ports(&v1::PodSandboxConfig { port_mappings: vec![mapping], ..Default::default() })
                .map_err(|refused| refused.to_string())
        };
        assert_eq!(read(mapping(0, 80, 0, "nonsense")), Ok(vec![]), "no port of the machine's");
        let local = Some(std::net::Ipv4Addr::LOCALHOST);
        let expected = HostPort { protocol: 17, host_ip: local, host_port: 53, container_port: 5353 };
        assert_eq!(read(mapping(1, 5353, 53, "127.0.0.1")), Ok(vec![expected]));
        assert_eq!(read(mapping(2, 1, 2, "0.0.0.0")).unwrap()[0].host_ip, None);
        for (bad, field) in [
            (mapping(9, 1, 1, ""), "protocol"),
            (mapping(0, 0, 1, ""), "container_port"),
            (mapping(0, 1, 65_536, ""), "host_port"),
            (mapping(0, 1, -1, ""), "host_port"),
            (mapping(0, 1, 1, "fd00::1"), "host_ip"),
            (mapping(0, 1, 1, "1.2.3"), "host_ip"),
        ] {
            let error = read(bad).unwrap_err();
            assert!(error.starts_with(&format!("port_mappings.{field}: ")), "{error}");
        }
    }
}
