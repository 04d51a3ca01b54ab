//! Images as a runtime's clients ask for them.

use crate::busybox::{self, NAME, config, hex, one_file};
use crate::world::{World, shell, with_world};
use cri::{Code, Error, Runtime, v1};
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// `user:password`, as it goes over the wire.
const LOGIN: &str = "authorization: basic dXNlcjpwYXNzd29yZA==";

/// A registry that knows one user, as long as the process lives.
struct Site {
    host: String,
    contents: HashMap<String, Vec<u8>>,
    asked: Mutex<usize>,
}

impl Site {
    fn start(layers: &[Vec<u8>]) -> Arc<Site> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut contents = HashMap::new();
        let mut put = |bytes: &[u8]| {
            contents.insert(format!("/v2/app/blobs/sha256:{}", hex(bytes)), bytes.to_vec());
            serde_json::json!({ "digest": format!("sha256:{}", hex(bytes)), "size": bytes.len() })
        };
        let typed = |mut descriptor: serde_json::Value, media_type: &str| {
            descriptor["mediaType"] = media_type.into();
            descriptor
        };
        let config = typed(put(&config(layers)), "application/vnd.oci.image.config.v1+json");
        let layers: Vec<_> =
            layers.iter().map(|layer| typed(put(layer), "application/vnd.oci.image.layer.v1.tar")).collect();
        let manifest = serde_json::json!({ "schemaVersion": 2, "config": config, "layers": layers }).to_string();
        contents
            .insert(format!("/v2/app/manifests/sha256:{}", hex(manifest.as_bytes())), manifest.clone().into_bytes());
        contents.insert("/v2/app/manifests/1".to_owned(), manifest.into_bytes());
        let host = listener.local_addr().unwrap().to_string();
        let site = Arc::new(Site { host, contents, asked: Mutex::new(0) });
        let serving = site.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let site = serving.clone();
                std::thread::spawn(move || site.converse(&stream));
            }
        });
        site
    }

    fn converse(&self, mut stream: &TcpStream) -> Option<()> {
        let mut reader = BufReader::new(stream);
        loop {
            // No TLS here.
            if reader.fill_buf().ok()?.first().is_none_or(|byte| !byte.is_ascii_uppercase()) {
                return None;
            }
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                reader.read_line(&mut head).ok().filter(|len| *len > 0)?;
            }
            *self.asked.lock().unwrap() += 1;
            let mut words = head.split(' ');
            let (method, path) = (words.next()?, words.next()?);
            let is_known = head.lines().any(|line| line.eq_ignore_ascii_case(LOGIN));
            let content = self.contents.get(path).filter(|_| is_known);
            let (status, more, body) = match content {
                Some(body) => ("200 OK", "", body.as_slice()),
                None if is_known => ("404 Not Found", "", &b""[..]),
                None => ("401 Unauthorized", "WWW-Authenticate: Basic realm=\"test\"\r\n", &b""[..]),
            };
            let len = body.len();
            write!(stream, "HTTP/1.1 {status}\r\n{more}Content-Length: {len}\r\n\r\n").ok()?;
            if method != "HEAD" {
                stream.write_all(body).ok()?;
            }
        }
    }

    fn asked(&self) -> usize {
        *self.asked.lock().unwrap()
    }
}

fn spec(name: &str) -> Option<v1::ImageSpec> {
    Some(v1::ImageSpec { image: name.into(), ..Default::default() })
}

fn password(password: &str) -> Option<v1::AuthConfig> {
    Some(v1::AuthConfig { username: "user".into(), password: password.into(), ..Default::default() })
}

async fn pull(world: &World, name: &str, auth: Option<v1::AuthConfig>) -> Result<String, Error> {
    let request = v1::PullImageRequest { image: spec(name), auth, ..Default::default() };
    world.engine().pull_image(request).await.map(|response| response.image_ref)
}

/// Whether no registry is to be asked about an image that is present.
async fn is_given(world: &World, name: &str) -> bool {
    let request = v1::ImageStatusRequest { image: spec(name), verbose: true };
    let status = world.engine().image_status(request).await.unwrap();
    assert!(status.image.is_some(), "{name}");
    status.info[cri::keys::IMAGE_GIVEN] == "true"
}

#[test]
fn an_image_is_pulled_with_its_credential_and_runs() {
    with_world(|world| async move {
        let site = Site::start(&[busybox::layer(), one_file("pulled")]);
        let name = format!("{}/app:1", site.host);
        for (auth, code) in [(None, Code::Unauthenticated), (password("wrong"), Code::Unauthenticated)] {
            let error = pull(&world, &name, auth).await.unwrap_err();
            assert!(error.code == code && error.message.contains(&site.host), "{error}");
            assert!(!error.message.contains("wrong"), "{error}");
        }
        let elsewhere = v1::AuthConfig { server_address: "other.example".into(), ..password("password").unwrap() };
        let error = pull(&world, &name, Some(elsewhere)).await.unwrap_err();
        assert_eq!(error.code, Code::Unauthenticated, "a credential is for the registry that it names: {error}");
        let missing = format!("{}/app:2", site.host);
        assert_eq!(pull(&world, &missing, password("password")).await.unwrap_err().code, Code::NotFound);

        let image = pull(&world, &name, password("password")).await.unwrap();
        assert!(!is_given(&world, &name).await);
        let sandbox = world.sandbox("pulled").await;
        let mut config = shell("app", "exec cat /pulled");
        config.image = spec(&image);
        let id = world.create(&sandbox, config).await.unwrap();
        world.start(&id).await.unwrap();
        assert_eq!(world.exited(&id).await.exit_code, 0);
        assert!(world.log("pulled", "app").trim_end().ends_with("pulled"), "{}", world.log("pulled", "app"));
        // What was pulled is asked for again, and so is the credential; by its digest too.
        let status = v1::ImageStatusRequest { image: spec(&name), verbose: false };
        let digests = world.engine().image_status(status).await.unwrap().image.unwrap().repo_digests;
        for name in digests.iter().chain([&name]) {
            let before = site.asked();
            assert_eq!(pull(&world, name, password("password")).await.unwrap(), image);
            assert!(site.asked() > before);
            assert_eq!(pull(&world, name, None).await.unwrap_err().code, Code::Unauthenticated, "{name}");
        }
        assert_eq!(digests.len(), 1);
        world
    });
}

#[test]
fn what_was_imported_needs_no_registry() {
    with_world(|world| async move {
        let found = v1::ImageStatusRequest { image: spec(NAME), verbose: false };
        let image = world.engine().image_status(found).await.unwrap().image.unwrap().id;
        assert!(image.starts_with("sha256:") && is_given(&world, NAME).await);
        assert_eq!(pull(&world, &image, None).await.unwrap(), image, "an id names no registry");
        assert!(is_given(&world, &image).await);
        assert!(is_given(&world, "busybox:test").await);
        // What is not there is asked for; whatever comes of it, the runtime has answered.
        let error = pull(&world, "nginx", None).await.unwrap_err();
        assert!(!error.code.leaves_outcome_unknown(), "{error}");
        assert!(
            error.message.starts_with("RegistryUnavailable: cannot pull docker.io/library/nginx:latest"),
            "{error}"
        );
        assert!(error.message.contains("kubelet image import"), "{error}");
        let absent = format!("sha256:{}", "0".repeat(64));
        assert_eq!(pull(&world, &absent, None).await.unwrap_err().code, Code::NotFound);
        for bad in ["UPPER/Case:1", "a b", ""] {
            assert_eq!(pull(&world, bad, None).await.unwrap_err().code, Code::InvalidArgument, "{bad}");
        }
        world
    });
}

#[test]
fn s_b13_images_of_many_layers_are_mounted() {
    with_world(|world| async move {
        let sandbox = world.sandbox("layers").await;
        for count in [127, 128, 129, 300, 500] {
            let archive = world.root_dir().join("layers.tar");
            let mut layers = vec![busybox::layer()];
            layers.extend((1..count).map(|at| one_file(&format!("layer-{at}"))));
            busybox::write_as(&archive, &format!("layers:{count}"), &layers);
            world.config.image.import(&archive, image::ImportOptions::default()).unwrap();
            let name = format!("c{count}");
            let mut config = shell(&name, "ls -d /layer-* | wc -l");
            config.image = spec(&format!("layers:{count}"));
            let id = world.create(&sandbox, config).await.unwrap();
            world.start(&id).await.unwrap();
            assert_eq!(world.exited(&id).await.exit_code, 0, "{count}: {}", world.log("layers", &name));
            let log = world.log("layers", &name);
            assert!(log.trim_end().ends_with(&format!(" {}", count - 1)), "{count}: {log}");
        }
        world
    });
}
