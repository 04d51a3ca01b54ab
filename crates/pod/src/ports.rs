//! Ports that probes and hooks name.

use k8s_openapi::api::core::v1::Container;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// A port that cannot be connected to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    #[error("invalid port number: {number}")]
    Number { number: i64 },
    #[error("container {container} has no port named {name:?}")]
    Unknown { container: String, name: String },
}

/// The number of a port given by number or by the name that the container's `ports` give it. Digits in quotes are a number.
///
/// # Errors
/// The number is not 1 to 65535, or no port of the container has the name.
pub fn resolve(container: &Container, port: &IntOrString) -> Result<u16, PortError> {
    let number = match port {
        IntOrString::Int(number) => i64::from(*number),
        IntOrString::String(name) => match named(container, name) {
            Some(number) => i64::from(number),
            None => name.parse().map_err(|_| unknown(container, name))?,
        },
    };
    u16::try_from(number).ok().filter(|number| *number > 0).ok_or(PortError::Number { number })
}

/// The first port of that name, as everywhere in the API.
fn named(container: &Container, name: &str) -> Option<i32> {
    let mut ports = container.ports.iter().flatten();
    ports.find(|port| port.name.as_deref() == Some(name)).map(|port| port.container_port)
}

fn unknown(container: &Container, name: &str) -> PortError {
    PortError::Unknown { container: container.name.clone(), name: name.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ContainerPort;

    #[test]
    fn numbers_and_names() {
        let port = |name: &str, container_port| ContainerPort {
            name: Some(name.to_owned()),
            container_port,
            ..ContainerPort::default()
        };
        let container = Container {
            name: "web".into(),
            ports: Some(vec![port("http", 8080), port("bad", 70_000), port("http", 9)]),
            ..Container::default()
        };
        let of = |port: IntOrString| resolve(&container, &port);
        let name = |name: &str| IntOrString::String(name.to_owned());
        assert_eq!(of(IntOrString::Int(80)), Ok(80));
        assert_eq!(of(name("http")), Ok(8080));
        assert_eq!(of(name("443")), Ok(443));
        for number in [0, -1, 65_536] {
            assert_eq!(of(IntOrString::Int(number)), Err(PortError::Number { number: i64::from(number) }));
        }
        assert_eq!(of(name("bad")), Err(PortError::Number { number: 70_000 }));
        assert_eq!(of(name("https")).unwrap_err().to_string(), "container web has no port named \"https\"");
    }
}
