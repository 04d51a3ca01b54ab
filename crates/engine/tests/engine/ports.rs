//! Connections to pods' ports.

use crate::namespaces::{Modes, OWN};
use crate::world::{World, eventually, with_world};
use cri::v1::NamespaceMode::Node;
use cri::{ByteStream, Code, Runtime, v1};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A connection to a server that begins to listen at some time.
async fn connected(world: &World, sandbox: &str, port: u16) -> Box<dyn ByteStream> {
    let engine = world.engine();
    eventually("the server", || async { engine.port_forward(sandbox, port).await.ok() }).await
}

#[test]
fn s_f07_bytes_go_both_ways_at_once_and_each_way_ends_for_itself() {
    with_world(|world| async move {
        let sandbox = world.sandbox("echo").await;
        world.run(&sandbox, "app", "exec busybox nc -ll -p 7 -e cat").await;
        let streams = [connected(&world, &sandbox, 7).await, connected(&world, &sandbox, 7).await];
        let talks = streams.map(|stream| {
            tokio::spawn(async move {
                let (mut from, mut to) = tokio::io::split(stream);
                let sent: Vec<u8> =
                    (0..8_000_000_u32).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
                let copy = sent.clone();
                let writing = tokio::spawn(async move {
                    to.write_all(&copy).await.unwrap();
                    to.shutdown().await.unwrap();
                });
                let mut received = Vec::new();
                from.read_to_end(&mut received).await.unwrap();
                writing.await.unwrap();
                assert!(received == sent, "{} bytes came back", received.len());
            })
        });
        for talk in talks {
            talk.await.unwrap();
        }
        world
    });
}

#[test]
fn s_f07_what_cannot_be_reached_is_told() {
    with_world(|world| async move {
        let sandbox = world.sandbox("closed").await;
        world.run(&sandbox, "app", "exec sleep 1000").await;
        let error = world.engine().port_forward(&sandbox, 81).await.err().unwrap();
        let begins = format!("failed to connect to localhost:81 inside namespace \"{sandbox}\", IPv4: ");
        assert!(error.message.starts_with(&begins) && error.message.contains("connection refused"), "{error}");
        assert_eq!(world.engine().port_forward("nobody", 81).await.err().map(|e| e.code), Some(Code::NotFound));
        let stop = v1::StopPodSandboxRequest { pod_sandbox_id: sandbox.clone() };
        world.engine().stop_pod_sandbox(stop).await.unwrap();
        let error = world.engine().port_forward(&sandbox, 81).await.err();
        assert_eq!(error.map(|error| error.code), Some(Code::FailedPrecondition));
        world
    });
}

#[test]
fn s_f07_only_a_pod_on_the_machines_network_leads_to_the_machine() {
    with_world(|world| async move {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let own = world.sandbox("own").await;
        assert!(world.engine().port_forward(&own, port).await.is_err());
        let machine = Modes { network: Node, ..OWN }.sandbox(&world, "machine").await;
        let mut stream = world.engine().port_forward(&machine, port).await.unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        stream.write_all(b"ping").await.unwrap();
        let mut seen = [0; 4];
        server.read_exact(&mut seen).await.unwrap();
        assert_eq!(&seen, b"ping");
        world
    });
}

#[test]
fn f_e03_a_pods_end_is_the_end_of_connections_to_it() {
    with_world(|world| async move {
        let sandbox = world.sandbox("gone").await;
        world.run(&sandbox, "app", "exec busybox nc -ll -p 7 -e cat").await;
        let mut stream = connected(&world, &sandbox, 7).await;
        stream.write_all(b"x").await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b'x');
        world.remove_sandbox(&sandbox).await;
        // Whichever way the kernel ends it.
        assert!(!matches!(stream.read(&mut [0; 8]).await, Ok(1..)));
        world
    });
}
