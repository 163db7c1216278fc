//! What the registry holds: asked directly, past viking's own records.

use serde_json::Value;

use super::http::{exists, fetch};
use super::world::World;

impl World {
    /// Every tag in the registry has its manifest and every byte that names, and so has every image
    /// that a release names.
    pub(crate) fn check_registry(&self) {
        let base = format!("http://127.0.0.1:{}/v2", self.registry_port);
        let json = |path: &str| -> Value {
            let text = fetch(&format!("{base}/{path}"))
                .unwrap_or_else(|e| panic!("registry: {path}: {e}"));
            serde_json::from_str(&text).expect("the registry speaks JSON")
        };
        let strings = |value: &Value| -> Vec<String> {
            let items = value.as_array().into_iter().flatten();
            items
                .filter_map(|item| item.as_str().map(str::to_owned))
                .collect()
        };
        for repository in strings(&json("_catalog")["repositories"]) {
            for tag in strings(&json(&format!("{repository}/tags/list"))["tags"]) {
                let manifest = json(&format!("{repository}/manifests/{tag}"));
                let layers = manifest["layers"].as_array().cloned().unwrap_or_default();
                for blob in layers.iter().chain([&manifest["config"]]) {
                    let digest = blob["digest"]
                        .as_str()
                        .unwrap_or_else(|| panic!("{repository}:{tag}: {manifest}"));
                    let url = format!("{base}/{repository}/blobs/{digest}");
                    assert!(
                        exists(&url),
                        "{repository}:{tag} names {digest}, which is not there"
                    );
                }
            }
        }
        let keys = self.keys().expect("the host answers");
        for (key, reference) in keys.iter().filter(|(key, _)| key.starts_with("/images/")) {
            let (_, path) = reference
                .split_once('/')
                .expect("a reference has a registry");
            let (repository, digest) = path.split_once('@').expect("a reference has a digest");
            let url = format!("{base}/{repository}/manifests/{digest}");
            assert!(
                exists(&url),
                "{key} names {reference}, which is not in the registry"
            );
        }
    }
}
