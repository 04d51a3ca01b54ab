use super::*;

fn needs_send<T: Send>(_: T) {}

#[test]
fn every_question_may_be_asked_by_any_task() {
    let registry = Registry::new(RegistryConfig::default());
    let reference = Reference::parse("reg.example/x").unwrap();
    let session = registry.session(&reference, None).unwrap();
    let digest = Digest::of(b"");
    needs_send(session.digest());
    needs_send(session.manifest());
    needs_send(session.manifest_at(&digest, 0));
    needs_send(async { session.blob(&digest, 0).await?.next().await });
}
