//! What planning asks of the library: which image a reference means, and what it says of itself.

use std::io;

use minato_image::{
    digest::Hasher,
    manifest::{self, Descriptor, Document, ImageConfig, ImageManifest, Platform},
};
use minato_model::{
    BoxFuture,
    code::{Code, Problem},
    digest::Digest,
    images::{Images, ResolvedImage},
    reference::ImageReference,
};

use crate::{content::Content, library::Library, names::Repository, repositories::Repositories};

/// Indexes within indexes, at most; the specification allows them, nobody needs more.
const NESTING_MAX: usize = 4;
/// Names that a message offers in place of one that isn't there.
const OFFERED_MAX: usize = 3;

impl Images for Library {
    fn resolve(&self, reference: &ImageReference) -> BoxFuture<'_, Result<ResolvedImage, Problem>> {
        let lookup = Lookup {
            content: self.content.clone(),
            repositories: self.repositories.clone(),
            platform: Platform::of_this_machine(),
            reference: reference.clone(),
            bytes_max: self.limits.manifest,
        };
        Box::pin(async move {
            let resolved = tokio::task::spawn_blocking(move || lookup.resolve()).await;
            resolved.unwrap_or_else(|error| Err(unreadable(&io::Error::other(error))))
        })
    }
}

/// One look at an image. It reads what is on the disk, checks what it reads, and changes nothing.
#[derive(Debug)]
struct Lookup {
    content: Content,
    repositories: Repositories,
    platform: Platform,
    reference: ImageReference,
    bytes_max: usize,
}

impl Lookup {
    fn resolve(&self) -> Result<ResolvedImage, Problem> {
        if let Some(host) = &self.reference.registry {
            return Err(self.elsewhere(host));
        }
        let repository = self.reference.repository.parse().map_err(|_| self.missing("no such repository"))?;
        let digest = self.named(&repository)?;
        let image = self.image(&digest)?;
        let config = self.config(&image)?;
        for layer in image.layers.iter().filter(|layer| !layer.is_foreign()) {
            self.check_layer(layer)?;
        }
        let has_command = config.has_command();
        Ok(ResolvedImage {
            digest,
            user: config.user,
            ports: config.ports,
            volumes: config.volumes,
            has_command,
        })
    }

    /// What the reference names now.
    fn named(&self, repository: &Repository) -> Result<Digest, Problem> {
        if let Some(digest) = &self.reference.digest {
            let held =
                self.repositories.media_type(repository, digest).map_err(|error| unreadable(&error))?;
            return held
                .map(|_| digest.clone())
                .ok_or_else(|| self.missing("its repository has no such digest"));
        }
        let tag = self.reference.tag.as_deref().unwrap_or("latest");
        let tag = tag.parse().map_err(|_| self.missing("no such tag"))?;
        let found = self.repositories.tag(repository, &tag).map_err(|error| unreadable(&error))?;
        found.ok_or_else(|| self.nearest(repository))
    }

    /// The manifest of the image for this machine.
    fn image(&self, named: &Digest) -> Result<ImageManifest, Problem> {
        let mut digest = named.clone();
        for _ in 0..NESTING_MAX {
            let bytes = self.read(&digest)?;
            match manifest::parse(&bytes, None).map_err(|error| self.refused(&error))? {
                Document::Image(image) => return Ok(image),
                Document::Index(index) => {
                    let entry = index.choose(&self.platform);
                    digest = entry.map_err(|error| self.other_platform(&error))?.digest.clone();
                }
            }
        }
        Err(self.refused(&format!("indexes are nested more than {NESTING_MAX} deep")))
    }

    fn config(&self, image: &ImageManifest) -> Result<ImageConfig, Problem> {
        let bytes = self.read(&image.config.digest)?;
        let config = ImageConfig::parse(&bytes).map_err(|error| self.refused(&error))?;
        if !config.platform.runs_on(&self.platform) {
            let error = manifest::NoPlatform {
                wanted: self.platform.clone(),
                offered: vec![config.platform.clone()],
            };
            return Err(self.other_platform(&error));
        }
        Ok(config)
    }

    /// Small content, whole and checked.
    fn read(&self, digest: &Digest) -> Result<Vec<u8>, Problem> {
        let read = self.content.small(digest, self.bytes_max).map_err(|error| unreadable(&error))?;
        let bytes = read.ok_or_else(|| self.incomplete(digest))?;
        let mut hasher = Hasher::new(digest.algorithm());
        hasher.update(&bytes);
        if hasher.finish() == *digest { Ok(bytes) } else { Err(self.damaged(digest)) }
    }

    /// A layer is there and as long as it should be; its content is checked when it is unpacked.
    fn check_layer(&self, layer: &Descriptor) -> Result<(), Problem> {
        match self.content.size(&layer.digest).map_err(|error| unreadable(&error))? {
            None => Err(self.incomplete(&layer.digest)),
            Some(size) if size != layer.size => Err(self.damaged(&layer.digest)),
            Some(_) => Ok(()),
        }
    }

    fn elsewhere(&self, host: &str) -> Problem {
        let message = format!("`{}`: images are taken from this cluster's own registry only", self.reference);
        let own_name = self.own_name();
        let hint = if host.starts_with("localhost") || host.starts_with("127.") {
            format!("write it without the host: `{own_name}`")
        } else {
            let from = match &self.reference.digest {
                Some(digest) => format!("docker://{host}/{}@{digest}", self.reference.repository),
                None => format!("docker://{host}/{own_name}"),
            };
            format!("copy it: {}; then write `{own_name}`", self.push_command(&from))
        };
        Problem::new(Code::NotSupported, message).with_hint(hint)
    }

    fn nearest(&self, repository: &Repository) -> Problem {
        let listed = || {
            let tags = self.repositories.tags(repository)?;
            if tags.is_empty() { Ok((false, self.repositories.names()?)) } else { Ok((true, tags)) }
        };
        let (in_repository, names) = match listed() {
            Ok(listed) => listed,
            Err(error) => return unreadable(&error),
        };
        let wanted = if in_repository {
            self.reference.tag.as_deref().unwrap_or("latest")
        } else {
            &self.reference.repository
        };
        let offered = offer(wanted, names);
        self.missing(&match (in_repository, offered.is_empty()) {
            (true, _) => format!("its repository has no such tag, but {offered}"),
            (false, true) => "no image has been pushed yet".to_owned(),
            (false, false) => format!("there is no such repository, but {offered}"),
        })
    }

    fn missing(&self, why: &str) -> Problem {
        let message = format!("the registry doesn't have `{}`: {why}", self.reference);
        Problem::new(Code::ImageMissing, message).with_hint(self.push_hint())
    }

    fn incomplete(&self, digest: &Digest) -> Problem {
        let message = format!("a part of `{}` isn't there, or is too large: {digest}", self.reference);
        Problem::new(Code::ImageMissing, message).with_hint(self.push_hint())
    }

    fn damaged(&self, digest: &Digest) -> Problem {
        let message = format!("a part of `{}` is not what its digest says: {digest}", self.reference);
        Problem::new(Code::ImageDigest, message)
            .with_hint(format!("the disk has changed it; {}", self.push_hint()))
    }

    fn other_platform(&self, error: &manifest::NoPlatform) -> Problem {
        let message = format!("`{}` doesn't run on this machine: {error}", self.reference);
        let hint = format!("build and push it for {}, or for several platforms", self.platform);
        Problem::new(Code::ImagePlatform, message).with_hint(hint)
    }

    fn refused(&self, why: &dyn std::fmt::Display) -> Problem {
        let message = format!("`{}` is no image that can be run: {why}", self.reference);
        Problem::new(Code::ImageRefused, message)
    }

    fn push_hint(&self) -> String {
        format!("push it: {}", self.push_command("docker-archive:FILE.tar"))
    }

    fn push_command(&self, from: &str) -> String {
        format!(
            "skopeo copy --dest-tls-verify=false --dest-creds minato:$TOKEN {from} docker://127.0.0.1:7070/{}",
            self.own_name()
        )
    }

    /// What the reference is called in this cluster's registry.
    fn own_name(&self) -> String {
        let tag = self.reference.tag.as_deref().unwrap_or("latest");
        format!("{}:{tag}", self.reference.repository)
    }
}

fn unreadable(error: &io::Error) -> Problem {
    Problem::new(Code::NodeFault, format!("the registry can't read its disk: {error}"))
}

/// The names that are most like what was wanted.
fn offer(wanted: &str, mut names: Vec<String>) -> String {
    names.sort_by_cached_key(|name| strsim::damerau_levenshtein(wanted, name));
    names.truncate(OFFERED_MAX);
    let quoted: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
    quoted.join(", ")
}
