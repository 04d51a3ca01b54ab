//! Layers of the suites' own making: tar archives, member by member.

use crate::tree::Xattrs;
use tar::{Builder, EntryType, Header};

/// What a member is beside its kind and its content.
#[derive(Debug, Clone, Default)]
pub struct Attributes {
    pub mode: u32,
    pub uid: u64,
    pub gid: u64,
    /// Seconds and nanoseconds.
    pub mtime: (u64, u32),
    pub xattrs: Xattrs,
}

impl Attributes {
    pub fn mode(mode: u32) -> Attributes {
        Attributes { mode, mtime: (1_700_000_000, 0), ..Attributes::default() }
    }
}

/// How names stand in the archive; all mean the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Naming {
    /// `a/b`, and long names as GNU tar writes them.
    #[default]
    Gnu,
    /// `a/b`, and long names as PAX records.
    Pax,
    /// `./a/b`
    Dotted,
}

/// A layer that grows member by member.
pub struct Layer {
    tar: Builder<Vec<u8>>,
    naming: Naming,
}

impl Default for Layer {
    fn default() -> Layer {
        Layer::new(Naming::Gnu)
    }
}

impl Layer {
    pub fn new(naming: Naming) -> Layer {
        Layer { tar: Builder::new(Vec::new()), naming }
    }

    pub fn dir(&mut self, path: &str, attributes: &Attributes) {
        self.member(&format!("{path}/"), attributes, Header::new_gnu(), Body::of(EntryType::Directory));
    }

    pub fn file(&mut self, path: &str, attributes: &Attributes, content: &[u8]) {
        let body = Body { content, ..Body::of(EntryType::Regular) };
        self.member(path, attributes, Header::new_gnu(), body);
    }

    pub fn symlink(&mut self, path: &str, attributes: &Attributes, to: &str) {
        self.member(path, attributes, Header::new_gnu(), Body { link: Some(to), ..Body::of(EntryType::Symlink) });
    }

    pub fn hard_link(&mut self, path: &str, attributes: &Attributes, to: &str) {
        let to = if self.naming == Naming::Dotted { format!("./{to}") } else { to.to_owned() };
        self.member(path, attributes, Header::new_gnu(), Body { link: Some(&to), ..Body::of(EntryType::Link) });
    }

    /// A device, or with the kind [`EntryType::Fifo`] a pipe.
    pub fn device(&mut self, path: &str, attributes: &Attributes, (kind, major, minor): (EntryType, u32, u32)) {
        let mut header = Header::new_gnu();
        header.set_device_major(major).expect("a header with devices");
        header.set_device_minor(minor).expect("a header with devices");
        self.member(path, attributes, header, Body::of(kind));
    }

    /// Hides `path` of the layers below.
    pub fn whiteout(&mut self, path: &str) {
        let (parent, name) = path.rsplit_once('/').map_or(("", path), |(parent, name)| (parent, name));
        let slash = if parent.is_empty() { "" } else { "/" };
        self.file(&format!("{parent}{slash}.wh.{name}"), &Attributes::mode(0), b"");
    }

    /// Hides all that the layers below have in `dir`.
    pub fn opaque(&mut self, dir: &str) {
        self.file(&format!("{dir}/.wh..wh..opq"), &Attributes::mode(0), b"");
    }

    pub fn finish(self) -> Vec<u8> {
        self.tar.into_inner().expect("memory takes all")
    }

    fn member(&mut self, path: &str, attributes: &Attributes, mut header: Header, body: Body<'_>) {
        let path = if self.naming == Naming::Dotted { format!("./{path}") } else { path.to_owned() };
        header.set_entry_type(body.kind);
        header.set_mode(attributes.mode);
        header.set_uid(attributes.uid);
        header.set_gid(attributes.gid);
        header.set_mtime(attributes.mtime.0);
        header.set_size(body.content.len() as u64);
        let mut records: Vec<(String, Vec<u8>)> = Vec::new();
        for (name, value) in &attributes.xattrs {
            records.push((format!("SCHILY.xattr.{name}"), value.clone()));
        }
        if attributes.mtime.1 > 0 {
            records
                .push(("mtime".to_owned(), format!("{}.{:09}", attributes.mtime.0, attributes.mtime.1).into_bytes()));
        }
        let long = |text: &str| self.naming == Naming::Pax && text.len() > 99;
        let (long_path, long_link) = (long(&path), body.link.is_some_and(long));
        if long_path {
            records.push(("path".to_owned(), path.clone().into_bytes()));
        }
        if let Some(link) = body.link.filter(|_| long_link) {
            records.push(("linkpath".to_owned(), link.as_bytes().to_vec()));
        }
        let records: Vec<(&str, &[u8])> = records.iter().map(|(key, value)| (key.as_str(), value.as_slice())).collect();
        if !records.is_empty() {
            self.tar.append_pax_extensions(records).expect("memory takes all");
        }
        // What a record says is cut in the header, which then says nothing.
        let path = if long_path { "long" } else { path.as_str() };
        let written = match body.link {
            Some(link) => self.tar.append_link(&mut header, path, if long_link { "long" } else { link }),
            None => self.tar.append_data(&mut header, path, body.content),
        };
        written.unwrap_or_else(|error| panic!("{path}: {error}"));
    }
}

struct Body<'a> {
    kind: EntryType,
    link: Option<&'a str>,
    content: &'a [u8],
}

impl Body<'_> {
    fn of(kind: EntryType) -> Self {
        Body { kind, link: None, content: b"" }
    }
}
