//! Manifest text to pods and their secrets: YAML or JSON, one or several documents, `Pod`, `Secret`, `PodList` and `List`.
//!
//! Text passes four gates, each with its own limits: [`text`] (bytes to plain values), [`decode`] (plain values to typed pods;
//! unknown fields and wrong types), [`crate::support`] (valid, but not implemented yet) and [`crate::validate`].

mod decode;
mod locate;
mod secret;
mod text;

use crate::accessors::{name, namespace};
use crate::field::{FieldError, escape};
use crate::secret::PullSecret;
use crate::support::{self, plain};
use crate::{defaults, validate};
use k8s_openapi::api::core::v1::Pod;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;

/// Largest manifest, bytes.
pub const MAX_BYTES: usize = 10 * 1024 * 1024;
/// Whether a file of this name in a manifest directory is a manifest; dot-files never are.
pub fn is_file_name(name: &[u8]) -> bool {
    !name.starts_with(b".") && [&b".yaml"[..], b".yml", b".json"].iter().any(|suffix| name.ends_with(suffix))
}

/// Most pods in one manifest.
pub const MAX_PODS: usize = 1000;
/// Most secrets in one manifest.
pub const MAX_SECRETS: usize = 1000;
/// Errors told of one document; the rest is counted.
pub const MAX_ERRORS_PER_DOCUMENT: usize = 20;

/// What a manifest holds. It is good only if there are no errors; what a bad one holds is of those documents that were good.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Manifest {
    pub pods: Vec<ParsedPod>,
    pub secrets: Vec<PullSecret>,
    pub errors: Vec<ManifestError>,
}

/// A valid pod with the API's defaults filled in, otherwise as written.
#[derive(Debug, Clone, PartialEq)]
pub struct ParsedPod {
    pub pod: Pod,
    /// Which document of the manifest it is from, counted from 1 without empty ones.
    pub document: usize,
}

/// One thing wrong with a manifest: where, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestError {
    /// As given to [`parse`]: a path or URL.
    pub file: String,
    /// Counted from 1; none if the whole file is meant, or it has only one document.
    pub document: Option<usize>,
    /// Line and column from 1, where known.
    pub position: Option<Position>,
    pub problem: Problem,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    pub line: u64,
    /// None where the field begins on that line is enough to know.
    pub column: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    #[error("is too large: {size_bytes} bytes, at most {MAX_BYTES} are allowed")]
    TooLarge { size_bytes: usize },
    #[error("is not text: {reason}; expected YAML or JSON in UTF-8")]
    NotText { reason: String },
    #[error("holds no pod: the file is empty; write a manifest of kind Pod or remove the file")]
    Empty,
    #[error("invalid {format}: {}", escape(message))]
    Syntax { format: &'static str, message: String },
    #[error("too complex: {}", escape(message))]
    TooComplex { message: String },
    #[error("holds more than {MAX_PODS} pods; split the file")]
    TooManyPods,
    #[error("holds more than {MAX_SECRETS} secrets; split the file")]
    TooManySecrets,
    #[error("{0}")]
    Field(FieldError),
    #[error("and {count} more errors")]
    More { count: usize },
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&escape(&self.file))?;
        if let Some(document) = self.document {
            write!(f, ", document {document}")?;
        }
        if let Some(position) = self.position {
            write!(f, ", line {}", position.line)?;
            if let Some(column) = position.column {
                write!(f, ", column {column}")?;
            }
        }
        write!(f, ": {}", self.problem)
    }
}

impl std::error::Error for ManifestError {}

/// Reads a manifest. `file` is a path or URL and appears in errors only.
pub fn parse(file: &str, bytes: &[u8]) -> Manifest {
    let documents = match text::documents(bytes) {
        Ok(documents) => documents,
        Err(failure) => return Manifest { errors: vec![failure.in_file(file)], ..Manifest::default() },
    };
    if documents.is_empty() {
        let error = ManifestError { file: file.to_owned(), document: None, position: None, problem: Problem::Empty };
        return Manifest { errors: vec![error], ..Manifest::default() };
    }
    let mut reader = Reader { several: documents.len() > 1, file, ..Reader::default() };
    for (index, value) in documents.into_iter().enumerate() {
        reader.document(index + 1, value);
        if let Some(problem) = reader.too_many() {
            reader.manifest.pods.clear();
            reader.manifest.secrets.clear();
            reader.report(None, None, problem);
            break;
        }
    }
    locate::fill_in(bytes, &mut reader.manifest.errors);
    if !reader.several {
        reader.manifest.errors.iter_mut().for_each(|error| error.document = None);
    }
    reader.manifest
}

/// Reads the one object of a file that is no manifest, of a type of one's own, as strictly as manifests are read. `check` looks at
/// it when its fields are known and of the right types.
///
/// # Errors
/// Everything that is wrong, with its line.
pub fn object_of<T: DeserializeOwned>(
    file: &str,
    bytes: &[u8],
    check: impl FnOnce(&T) -> Vec<FieldError>,
) -> Result<T, Vec<ManifestError>> {
    let mut documents = text::documents(bytes).map_err(|failure| vec![failure.in_file(file)])?;
    let decoded = match (documents.pop(), documents.len()) {
        (Some(value), 0) => decode::object::<T>(value),
        (_, more) => {
            let count = if more == 0 { "none" } else { "several" };
            let error = FieldError::new("(document)", format!("holds {count}: expected one document"));
            decode::Decoded { object: None, errors: vec![error], taken_out: Vec::new() }
        }
    };
    let mut errors = decoded.errors;
    let object = decoded.object.filter(|_| errors.is_empty());
    if let Some(object) = &object {
        errors = check(object);
    }
    let told = errors.into_iter().map(Problem::Field);
    // The first document: that is where the lines are looked up.
    let in_file = |problem| ManifestError { file: file.to_owned(), document: Some(1), position: None, problem };
    let mut told: Vec<ManifestError> = told.map(in_file).collect();
    locate::fill_in(bytes, &mut told);
    told.iter_mut().for_each(|error| error.document = None);
    object.filter(|_| told.is_empty()).ok_or(told)
}

/// The `kind` of the first document; none if there is none or the text cannot be read.
pub fn kind_of(bytes: &[u8]) -> Option<String> {
    let documents = text::documents(bytes).ok()?;
    documents.first()?.get("kind")?.as_str().map(str::to_owned)
}

#[derive(Default)]
struct Reader<'a> {
    file: &'a str,
    several: bool,
    manifest: Manifest,
    /// Full names and explicit UIDs seen, with the place of the first.
    names: BTreeMap<(String, String), usize>,
    uids: BTreeMap<String, usize>,
    /// Namespaces and names of secrets, likewise.
    secrets: BTreeMap<(String, String), usize>,
}

impl Reader<'_> {
    fn document(&mut self, document: usize, value: Value) {
        let mut errors = Vec::new();
        self.objects(document, value, &mut errors);
        let over = errors.len().saturating_sub(MAX_ERRORS_PER_DOCUMENT);
        errors.truncate(MAX_ERRORS_PER_DOCUMENT);
        for error in errors {
            self.report(Some(document), None, Problem::Field(error));
        }
        if over > 0 {
            self.report(Some(document), None, Problem::More { count: over });
        }
    }

    fn too_many(&self) -> Option<Problem> {
        if self.manifest.pods.len() > MAX_PODS {
            return Some(Problem::TooManyPods);
        }
        (self.manifest.secrets.len() > MAX_SECRETS).then_some(Problem::TooManySecrets)
    }

    fn report(&mut self, document: Option<usize>, position: Option<Position>, problem: Problem) {
        self.manifest.errors.push(ManifestError { file: self.file.to_owned(), document, position, problem });
    }

    /// A pod, a secret, or a list of them.
    fn objects(&mut self, document: usize, value: Value, errors: &mut Vec<FieldError>) {
        let Value::Object(mut object) = value else {
            let message = "expected a mapping that begins with apiVersion and kind";
            errors.push(FieldError::with_found("(document)", plain(&value), message));
            return;
        };
        match header(&object, "") {
            Err(error) => errors.push(error),
            Ok("Pod") => self.pod(document, Value::Object(object), Place::ROOT, errors),
            Ok("Secret") => self.secret(document, object, Place::ROOT, errors),
            Ok(list) => {
                let list = list.to_owned();
                let items = match object.remove("items") {
                    None | Some(Value::Null) => Vec::new(),
                    Some(Value::Array(items)) => items,
                    Some(other) => {
                        return errors.push(FieldError::with_found("items", plain(&other), "expected a list of pods"));
                    }
                };
                let known = ["apiVersion", "kind", "metadata"];
                let unknown = object.keys().filter(|key| !known.contains(&key.as_str()));
                errors.extend(unknown.map(|key| {
                    FieldError::new(key, format!("unknown field; a {list} has apiVersion, kind, metadata and items"))
                }));
                self.items(document, &list, items, errors);
            }
        }
    }

    fn items(&mut self, document: usize, list: &str, items: Vec<Value>, errors: &mut Vec<FieldError>) {
        for (index, mut item) in items.into_iter().enumerate() {
            let prefix = format!("items[{index}]");
            if let (Value::Object(object), "PodList") = (&mut item, list) {
                // The items of a typed list may leave out what the list already says.
                object.entry("apiVersion").or_insert_with(|| "v1".into());
                object.entry("kind").or_insert_with(|| "Pod".into());
            }
            let place = Place { prefix: &prefix };
            let Value::Object(object) = item else {
                errors.push(FieldError::with_found(prefix, plain(&item), "expected a pod"));
                continue;
            };
            match (header(&object, &prefix), list) {
                (Ok("Pod"), _) => self.pod(document, Value::Object(object), place, errors),
                (Ok("Secret"), "List") => self.secret(document, object, place, errors),
                (Ok(kind @ "Secret"), _) => {
                    let message = format!("expected Pod in a {list}; use kind List for several kinds");
                    errors.push(FieldError::with_found(format!("{prefix}.kind"), kind, message));
                }
                (Ok(kind), _) => {
                    let message = "a list in a list is not supported: expected Pod";
                    errors.push(FieldError::with_found(format!("{prefix}.kind"), kind, message));
                }
                (Err(error), _) => errors.push(error),
            }
            if self.too_many().is_some() {
                return;
            }
        }
    }

    fn pod(&mut self, document: usize, value: Value, place: Place<'_>, errors: &mut Vec<FieldError>) {
        let before = errors.len();
        let decoded = decode::object::<Pod>(value);
        let taken_out = decoded.taken_out;
        errors.extend(decoded.errors.into_iter().map(|error| place.error(error)));
        let Some(mut pod) = decoded.object else { return };
        defaults::apply(&mut pod);
        // What could not be decoded is absent from the pod: complaining that it is absent would only confuse.
        let told = |error: &FieldError| {
            taken_out.iter().any(|path| is_within(path, &error.path) || is_within(&error.path, path))
        };
        let found = support::unsupported(&pod).into_iter().chain(validate::pod(&pod));
        errors.extend(found.filter(|error| !told(error)).map(|error| place.error(error)));
        if errors.len() == before
            && let Some(error) = self.claim(document, &pod)
        {
            errors.push(place.error(error));
        }
        if errors.len() == before {
            self.manifest.pods.push(ParsedPod { pod, document });
        }
    }

    fn secret(
        &mut self,
        document: usize,
        object: serde_json::Map<String, Value>,
        place: Place<'_>,
        errors: &mut Vec<FieldError>,
    ) {
        let secret = match secret::read(object) {
            Ok(secret) => secret,
            Err(found) => return errors.extend(found.into_iter().map(|error| place.error(error))),
        };
        let key = (secret.namespace.clone(), secret.name.clone());
        if let Some(first) = self.secrets.get(&key) {
            let message =
                format!("another secret of this name is in namespace {} already (document {first}); rename one", key.0);
            errors.push(place.error(FieldError::with_found("metadata.name", &key.1, message)));
            return;
        }
        self.secrets.insert(key, document);
        self.manifest.secrets.push(secret);
    }

    /// Two pods of one name, or of one explicit UID, would be one pod that changes to and fro.
    fn claim(&mut self, document: usize, pod: &Pod) -> Option<FieldError> {
        let key = (namespace(pod).to_owned(), name(pod).to_owned());
        if let Some(first) = self.names.get(&key) {
            let message =
                format!("another pod of this name is in namespace {} already (document {first}); rename one", key.0);
            return Some(FieldError::with_found("metadata.name", &key.1, message));
        }
        self.names.insert(key, document);
        let uid = pod.metadata.uid.as_deref().filter(|uid| !uid.is_empty())?;
        if let Some(first) = self.uids.insert(uid.to_owned(), document) {
            let message = format!("another pod has this UID already (document {first}); leave it out to have one made");
            return Some(FieldError::with_found("metadata.uid", uid, message));
        }
        None
    }
}

/// Where in its document an object stands.
#[derive(Clone, Copy)]
struct Place<'a> {
    prefix: &'a str,
}

impl Place<'_> {
    const ROOT: Place<'static> = Place { prefix: "" };

    fn error(self, error: FieldError) -> FieldError {
        FieldError { path: join(self.prefix, &error.path), ..error }
    }
}

/// Whether the first path is the second, or beneath it.
fn is_within(path: &str, above: &str) -> bool {
    path.strip_prefix(above).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

fn join(prefix: &str, path: &str) -> String {
    if prefix.is_empty() { path.to_owned() } else { format!("{prefix}.{path}") }
}

/// The object's kind, one of `Pod`, `Secret`, `PodList` and `List`, of version v1.
fn header<'a>(object: &'a serde_json::Map<String, Value>, prefix: &str) -> Result<&'a str, FieldError> {
    let text = |key: &str, example: &str| match object.get(key) {
        Some(Value::String(text)) if !text.is_empty() => Ok(text.as_str()),
        None | Some(Value::Null | Value::String(_)) => {
            Err(FieldError::new(join(prefix, key), format!("is missing: expected {example}")))
        }
        Some(other) => Err(FieldError::with_found(join(prefix, key), plain(other), format!("expected {example}"))),
    };
    let kind = text("kind", "Pod, Secret, PodList or List")?;
    if !matches!(kind, "Pod" | "Secret" | "PodList" | "List") {
        let shown = crate::field::printable(kind);
        let message = format!("kind {shown} is not supported yet: only Pod, Secret, PodList and List are");
        return Err(FieldError::new(join(prefix, "kind"), message));
    }
    let version = text("apiVersion", "v1")?;
    if version != "v1" {
        return Err(FieldError::with_found(
            join(prefix, "apiVersion"),
            version,
            format!("expected v1 for kind {kind}"),
        ));
    }
    Ok(kind)
}
