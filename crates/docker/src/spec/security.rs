//! What a container may do.

use bollard::models::HostConfig;
use cri::v1;
use cri::v1::security_profile::ProfileType;

use cri::Refused;

use super::{given, unsupported};

const MAX_ID: i64 = i32::MAX as i64;

/// Sets what the security context asks for.
///
/// # Errors
/// The first field that cannot be granted.
pub(super) fn apply(security: &v1::LinuxContainerSecurityContext, host: &mut HostConfig) -> Result<(), Refused> {
    let capabilities = security.capabilities.clone().unwrap_or_default();
    if !capabilities.add_ambient_capabilities.is_empty() {
        return unsupported("capabilities.add_ambient_capabilities");
    }
    if security.supplemental_groups_policy != i32::from(v1::SupplementalGroupsPolicy::Merge) {
        return unsupported("supplemental_groups_policy");
    }
    let groups = security.supplemental_groups.iter().map(|group| id("supplemental_groups", *group));
    host.group_add = Some(groups.map(|group| group.map(|group| group.to_string())).collect::<Result<_, _>>()?);
    host.cap_add = Some(capabilities.add_capabilities);
    host.cap_drop = Some(capabilities.drop_capabilities);
    host.privileged = Some(security.privileged);
    host.readonly_rootfs = Some(security.readonly_rootfs);
    host.security_opt = Some(options(security)?);
    if security.privileged {
        (host.masked_paths, host.readonly_paths) = (Some(Vec::new()), Some(Vec::new()));
    } else {
        // A request that names paths means exactly those; one that names none gets Docker's.
        let named = |paths: &[String]| (!paths.is_empty()).then(|| paths.to_vec());
        (host.masked_paths, host.readonly_paths) = (named(&security.masked_paths), named(&security.readonly_paths));
    }
    Ok(())
}

fn options(security: &v1::LinuxContainerSecurityContext) -> Result<Vec<String>, Refused> {
    let mut options = Vec::new();
    if security.no_new_privs {
        options.push("no-new-privileges".to_owned());
    }
    options.extend(seccomp(security.seccomp.as_ref())?);
    match security.apparmor.as_ref().map(|profile| (profile.profile_type(), profile.localhost_ref.as_str())) {
        None | Some((ProfileType::RuntimeDefault, _)) => {}
        Some((ProfileType::Unconfined, _)) => options.push("apparmor=unconfined".to_owned()),
        Some((ProfileType::Localhost, name)) if !name.is_empty() => options.push(format!("apparmor={name}")),
        Some((ProfileType::Localhost, _)) => return Err(Refused::new("apparmor.localhost_ref", "a name is expected")),
    }
    let selinux = security.selinux_options.clone().unwrap_or_default();
    for (key, value) in
        [("user", selinux.user), ("role", selinux.role), ("type", selinux.r#type), ("level", selinux.level)]
    {
        options.extend(given(&value).map(|value| format!("label={key}:{value}")));
    }
    Ok(options)
}

/// Docker's own profile is the runtime's default; one in a file it wants to be sent, which is not offered.
pub(super) fn seccomp(profile: Option<&v1::SecurityProfile>) -> Result<Option<String>, Refused> {
    match profile.map(|profile| profile.profile_type()) {
        None | Some(ProfileType::Unconfined) => Ok(Some("seccomp=unconfined".to_owned())),
        Some(ProfileType::RuntimeDefault) => Ok(None),
        Some(ProfileType::Localhost) => unsupported("seccomp.localhost_ref"),
    }
}

/// Who runs it: `user[:group]`. `image` is what the image says.
///
/// # Errors
/// A number that is no id.
pub(super) fn user(security: &v1::LinuxContainerSecurityContext, image: &str) -> Result<Option<String>, Refused> {
    let uid = security.run_as_user.map(|user| id("run_as_user", user.value)).transpose()?;
    let gid = security.run_as_group.map(|group| id("run_as_group", group.value)).transpose()?;
    let named = given(&security.run_as_username);
    let user = uid.map(|uid| uid.to_string()).or(named);
    let Some(gid) = gid else { return Ok(user) };
    let of_image = image.split(':').next().filter(|user| !user.is_empty()).unwrap_or("0");
    Ok(Some(format!("{}:{gid}", user.as_deref().unwrap_or(of_image))))
}

fn id(field: &str, value: i64) -> Result<i64, Refused> {
    match (0..=MAX_ID).contains(&value) {
        true => Ok(value),
        false => Err(Refused::new(field, format!("{value}: expected 0 to {MAX_ID}"))),
    }
}
