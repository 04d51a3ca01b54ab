//! Many at once.

use crate::world::{World, shell, with_world};
use cri::v1;
use std::sync::Arc;
use std::time::Instant;

#[test]
fn a_hundred_pods_at_once_come_and_go() {
    with_world(|world| async move {
        let world = Arc::new(world);
        let began = Instant::now();
        let pods: Vec<_> = (0..100)
            .map(|number| {
                let world = Arc::clone(&world);
                tokio::spawn(async move {
                    let sandbox = world.sandbox(&format!("pod{number}")).await;
                    let id = world.run(&sandbox, "app", "exec sleep 1000").await;
                    (sandbox, id)
                })
            })
            .collect();
        let mut running = Vec::new();
        for pod in pods {
            running.push(pod.await.unwrap());
        }
        println!("100 pods running after {} ms", began.elapsed().as_millis());
        let mut addresses = std::collections::BTreeSet::new();
        for (sandbox, id) in &running {
            assert_eq!(world.status(id).await.state(), v1::ContainerState::ContainerRunning);
            addresses.insert(world.sandbox_status(sandbox).await.network.unwrap().ip);
        }
        assert_eq!(addresses.len(), 100);
        let began = Instant::now();
        let removals: Vec<_> = running
            .into_iter()
            .map(|(sandbox, _)| {
                let world = Arc::clone(&world);
                tokio::spawn(async move { world.remove_sandbox(&sandbox).await })
            })
            .collect();
        for removal in removals {
            removal.await.unwrap();
        }
        println!("100 pods removed after {} ms", began.elapsed().as_millis());
        Arc::into_inner(world).unwrap()
    });
}

#[test]
fn one_pod_after_the_other() {
    with_world(|world: World| async move {
        let mut spans = Vec::new();
        for number in 0..20 {
            let began = Instant::now();
            let sandbox = world.sandbox(&format!("pod{number}")).await;
            let ready = began.elapsed();
            let id = world.create(&sandbox, shell("app", "exec sleep 1000")).await.unwrap();
            let created = began.elapsed();
            world.start(&id).await.unwrap();
            spans.push((began.elapsed(), ready, created));
            world.remove_sandbox(&sandbox).await;
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        spans.sort_unstable();
        let (all, ready, created) = spans[spans.len() / 2];
        println!(
            "median: sandbox {ready:?}, created {created:?}, started {all:?}; slowest {:?}",
            spans[spans.len() - 1].0
        );
        world
    });
}
