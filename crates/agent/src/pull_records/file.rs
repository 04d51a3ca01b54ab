//! The form of the records: `ImagePullIntent` and `ImagePulledRecord` of the kubelet's configuration API.

use std::collections::BTreeMap;

use lifecycle::image_access::{Access, Bearer};
use pod::image_name;
use serde::{Deserialize, Serialize};

const API_VERSION: &str = "kubelet.config.k8s.io/v1beta1";

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ImagePullIntent {
    #[serde(flatten)]
    kind: Kind,
    pub(super) image: String,
    /// The id of the image that had this name before, and so did not come by it. No other kubelet writes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) present: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ImagePulledRecord {
    #[serde(flatten)]
    kind: Kind,
    last_updated_time: String,
    image_ref: String,
    #[serde(default)]
    credential_mapping: BTreeMap<String, Credentials>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Kind {
    kind: String,
    api_version: String,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Credentials {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    kubernetes_secrets: Vec<Secret>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    node_pods_accessible: bool,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Secret {
    uid: String,
    namespace: String,
    name: String,
    credential_hash: String,
}

impl Kind {
    fn of(kind: &str) -> Self {
        Self { kind: kind.to_owned(), api_version: API_VERSION.to_owned() }
    }
}

impl ImagePullIntent {
    pub(super) fn of(image: &str, present: Option<&str>) -> Self {
        let (image, present) = (image.to_owned(), present.map(str::to_owned));
        Self { kind: Kind::of("ImagePullIntent"), image, present }
    }

    /// With the full name, however short it was written.
    pub(super) fn in_full(self) -> Self {
        let image = image_name::normalize(&self.image).unwrap_or(self.image);
        Self { image, ..self }
    }
}

impl ImagePulledRecord {
    pub(super) fn of(id: &str, access: &BTreeMap<String, Access>) -> Self {
        Self {
            kind: Kind::of("ImagePulledRecord"),
            last_updated_time: jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            image_ref: id.to_owned(),
            credential_mapping: access.iter().map(|(image, access)| (image.clone(), Credentials::of(access))).collect(),
        }
    }

    /// By full repository, however short it was written.
    pub(super) fn access(self) -> BTreeMap<String, Access> {
        let full = |(image, credentials): (String, Credentials)| {
            Some((image_name::repository(&image).ok()?, credentials.access()))
        };
        self.credential_mapping.into_iter().filter_map(full).collect()
    }
}

impl Credentials {
    fn of(access: &Access) -> Self {
        match access {
            Access::Everyone => Self { node_pods_accessible: true, ..Self::default() },
            Access::Bearers(bearers) => {
                Self { kubernetes_secrets: bearers.iter().map(Secret::of).collect(), node_pods_accessible: false }
            }
        }
    }

    fn access(self) -> Access {
        match self.node_pods_accessible {
            true => Access::Everyone,
            false => Access::Bearers(self.kubernetes_secrets.into_iter().filter_map(Secret::bearer).collect()),
        }
    }
}

impl Secret {
    fn of(bearer: &Bearer) -> Self {
        let Bearer { namespace, name, uid, hash } = bearer.clone();
        Self { uid, namespace, name, credential_hash: hash }
    }

    /// None where it says nothing: two without a hash are not the same.
    fn bearer(self) -> Option<Bearer> {
        let Self { uid, namespace, name, credential_hash: hash } = self;
        (!hash.is_empty()).then_some(Bearer { namespace, name, uid, hash })
    }
}
