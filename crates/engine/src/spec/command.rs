//! What a container runs: the pod's words over the image's.

use std::collections::BTreeMap;

use cri::v1;
use image::ImageConfig;
use shim::protocol::User;

use cri::Refused;

const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const MAX_ID: i64 = i32::MAX as i64;

/// A command replaces entrypoint and arguments of the image; arguments alone replace the image's arguments.
pub(crate) fn arguments(config: &v1::ContainerConfig, image: &ImageConfig) -> Result<Vec<String>, Refused> {
    let (command, args) = match (config.command.is_empty(), config.args.is_empty()) {
        (false, _) => (&config.command, &config.args),
        (true, false) => (&image.entrypoint, &config.args),
        (true, true) => (&image.entrypoint, &image.cmd),
    };
    let all: Vec<String> = command.iter().chain(args).cloned().collect();
    if all.first().is_none_or(String::is_empty) {
        return Err(Refused::new("command", "no command: neither the container nor its image names one"));
    }
    if all.iter().any(|word| word.contains('\0')) {
        return Err(Refused::new("command", "a word holds a zero byte"));
    }
    Ok(all)
}

/// The image's variables, the pod's over them. What is no `NAME=value` in an image is left out; that never means
/// that a variable of this process is passed on.
pub(crate) fn environment(
    config: &v1::ContainerConfig,
    image: &ImageConfig,
    hostname: &str,
) -> Result<Vec<String>, Refused> {
    let mut order: Vec<String> = Vec::new();
    let mut values: BTreeMap<String, String> = BTreeMap::new();
    let mut set = |name: &str, entry: String| {
        if values.insert(name.to_owned(), entry).is_none() {
            order.push(name.to_owned());
        }
    };
    set("PATH", DEFAULT_PATH.to_owned());
    set("HOSTNAME", format!("HOSTNAME={hostname}"));
    if config.tty {
        set("TERM", "TERM=xterm".to_owned());
    }
    for entry in &image.env {
        match entry.split_once('=') {
            Some((name, _)) if !name.is_empty() && !entry.contains('\0') => set(name, entry.clone()),
            _ => {}
        }
    }
    for env in &config.envs {
        if env.key.is_empty() || env.key.contains(['=', '\0']) || env.value.contains('\0') {
            let fault =
                format!("{:?} cannot be a variable: a name without '=' and no zero bytes are expected", env.key);
            return Err(Refused::new("envs", fault));
        }
        set(&env.key, format!("{}={}", env.key, env.value));
    }
    Ok(order.iter().filter_map(|name| values.remove(name)).collect())
}

pub(crate) fn working_directory(config: &v1::ContainerConfig, image: &ImageConfig) -> Result<String, Refused> {
    let first = |dir: &str| (!dir.is_empty()).then(|| dir.to_owned());
    let dir = first(&config.working_dir).or_else(|| first(&image.working_dir)).unwrap_or_else(|| "/".to_owned());
    match dir.starts_with('/') && !dir.contains('\0') {
        true => Ok(dir),
        false => Err(Refused::new("working_dir", format!("{dir:?}: expected an absolute path"))),
    }
}

/// Who runs it. Names are looked up by the shim, in the container's own files.
pub(crate) fn user(security: &v1::LinuxContainerSecurityContext, image: &ImageConfig) -> Result<User, Refused> {
    let id = |field: &str, value: i64| match (0..=MAX_ID).contains(&value) {
        true => Ok(value as u32),
        false => Err(Refused::new(field, format!("{value}: expected 0 to {MAX_ID}"))),
    };
    let uid = security.run_as_user.map(|user| id("run_as_user", user.value)).transpose()?;
    let gid = security.run_as_group.map(|group| id("run_as_group", group.value)).transpose()?;
    let groups = security.supplemental_groups.iter();
    let additional_gids = groups.map(|group| id("supplemental_groups", *group)).collect::<Result<_, _>>()?;
    let name = match (uid, security.run_as_username.as_str()) {
        (Some(_), _) => String::new(),
        (None, "") => image.user.clone(),
        (None, name) => name.to_owned(),
    };
    Ok(User { name, uid, gid, additional_gids, must_not_be_root: false })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn command_and_arguments_follow_the_table() {
        for (entrypoint, cmd, command, args, expected) in [
            ("e", "c", "", "", "e c"),
            ("e", "c", "x", "", "x"),
            ("e", "c", "", "y", "e y"),
            ("e", "c", "x", "y", "x y"),
            ("", "c", "", "", "c"),
            ("", "c", "", "y z", "y z"),
        ] {
            let image = ImageConfig { entrypoint: words(entrypoint), cmd: words(cmd), ..Default::default() };
            let config = v1::ContainerConfig { command: words(command), args: words(args), ..Default::default() };
            assert_eq!(arguments(&config, &image).unwrap(), words(expected));
        }
    }

    #[test]
    fn s_c10_no_command_is_refused() {
        let empty = ImageConfig::default();
        let blank = ImageConfig { entrypoint: vec![String::new()], ..Default::default() };
        let zero = ImageConfig { cmd: vec!["\0".into()], ..Default::default() };
        for image in [empty, blank, zero] {
            assert!(arguments(&v1::ContainerConfig::default(), &image).is_err());
        }
    }

    #[test]
    fn s_c05_only_variables_of_image_and_pod_are_passed_on() {
        let env = ["FOO", "=x", "", "A=1", "A=2", "PATH=/bin", "B=a=b", "Z=\0"];
        let image = ImageConfig { env: env.map(str::to_owned).to_vec(), ..Default::default() };
        let pair = |key: &str, value: &str| v1::KeyValue { key: key.into(), value: value.into() };
        let config = v1::ContainerConfig { envs: vec![pair("B", "pod"), pair("C", "")], ..Default::default() };
        let expected = ["PATH=/bin", "HOSTNAME=web", "A=2", "B=pod", "C="];
        assert_eq!(environment(&config, &image, "web").unwrap(), expected);
        for (key, value) in [("", "x"), ("A=B", "x"), ("A\0", "x"), ("A", "\0")] {
            let config = v1::ContainerConfig { envs: vec![pair(key, value)], ..Default::default() };
            assert!(environment(&config, &image, "web").is_err(), "{key:?}");
        }
    }

    #[test]
    fn s_c01_ids_out_of_range_are_refused_and_never_become_root() {
        let image = ImageConfig { user: "app".into(), ..Default::default() };
        let with = |value| v1::LinuxContainerSecurityContext {
            run_as_user: Some(v1::Int64Value { value }),
            ..Default::default()
        };
        for value in [-1, 1 << 31, 1 << 32, i64::MIN] {
            assert!(user(&with(value), &image).is_err(), "{value}");
        }
        let numeric = user(&with(1000), &image).unwrap();
        assert_eq!((numeric.uid, numeric.name.as_str()), (Some(1000), ""));
        assert_eq!(user(&v1::LinuxContainerSecurityContext::default(), &image).unwrap().name, "app");
    }

    #[test]
    fn working_directories_are_absolute() {
        let image = ImageConfig { working_dir: "/srv".into(), ..Default::default() };
        let with = |dir: &str| v1::ContainerConfig { working_dir: dir.into(), ..Default::default() };
        assert_eq!(working_directory(&with(""), &image).unwrap(), "/srv");
        assert_eq!(working_directory(&with("/x"), &image).unwrap(), "/x");
        assert_eq!(working_directory(&with(""), &ImageConfig::default()).unwrap(), "/");
        assert!(working_directory(&with("relative"), &image).is_err());
    }
}
