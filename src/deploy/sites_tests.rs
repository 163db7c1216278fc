//! Sites from a registry that may lie, into folders that are whole or not there.

use super::*;
use crate::deploy::fake_source::FakeSource;
use crate::docker::fake::FakeRegistry;

fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// A site of one page: the digests of its image and of its layer.
fn publish(registry: &FakeRegistry, text: &str) -> (String, String) {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(text.len() as u64);
    let bytes = text.as_bytes();
    builder
        .append_data(&mut header, "index.html", bytes)
        .unwrap();
    let layer = builder.into_inner().unwrap();
    let named = serde_json::json!({"layers": [{"digest": sha256(&layer), "size": layer.len()}]});
    let blob = sha256(&layer);
    let manifest = named.to_string();
    let digest = registry.put_bytes("r/s/site.a", "t", manifest.as_bytes(), vec![layer]);
    (digest.unwrap(), blob)
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    let name = |entry: io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
    entries.map(name).collect()
}

async fn fetched(registry: &FakeRegistry, folder: &Path, digest: &str) -> Result<(), String> {
    let repositories = BTreeSet::from(["s/site.a".to_owned()]);
    fetch(&FakeSource::new(registry), folder, digest, &repositories).await
}

#[tokio::test]
async fn a_site_is_there_whole_or_not_at_all_and_other_bytes_are_not_it() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("sites");
    let registry = FakeRegistry::default();
    let (digest, blob) = publish(&registry, "hello");
    let good = registry.bytes(&blob).unwrap().unwrap();
    let manifest = registry.bytes(&digest).unwrap().unwrap();
    let mut other = good.clone();
    other[512] ^= 1;
    for (of, bytes) in [
        (&blob, &other),
        (&blob, &good[..600].to_vec()),
        (&digest, &b"{}".to_vec()),
    ] {
        registry.spoil(of, bytes);
        let error = fetched(&registry, &folder, &digest).await.unwrap_err();
        assert!(error.contains("sent other bytes"), "{error}");
        assert_eq!(names(&folder), Vec::<String>::new());
        registry.spoil(&blob, &good);
        registry.spoil(&digest, &manifest);
    }
    registry.down(true);
    assert!(fetched(&registry, &folder, &digest).await.is_err());
    registry.down(false);
    // Of a try that was ended in the middle.
    let place = site::folder(&folder, &digest).unwrap();
    fs::create_dir(place.with_extension(UNDERWAY)).unwrap();
    fs::write(place.with_extension(UNDERWAY).join("half"), "").unwrap();
    fetched(&registry, &folder, &digest).await.unwrap();
    assert_eq!(
        fs::read_to_string(place.join("index.html")).unwrap(),
        "hello"
    );
    assert_eq!(names(&place), ["index.html"]);
    assert_eq!(names(&folder).len(), 1);
}

#[tokio::test]
async fn what_no_release_names_stays_a_while_and_then_goes() {
    let dir = tempfile::tempdir().unwrap();
    let registry = FakeRegistry::default();
    let (kept, _) = publish(&registry, "kept");
    let (left, _) = publish(&registry, "left");
    let (mut sites, _answers) = Sites::new(dir.path(), Arc::new(FakeSource::new(&registry)));
    for digest in [&kept, &left] {
        fetched(&registry, &sites.folder, digest).await.unwrap();
    }
    fs::create_dir(sites.folder.join("half.tmp")).unwrap();
    let asked = Asked::from([(kept.clone(), BTreeSet::new())]);
    assert_eq!(
        sites.out_of_the_way(&asked, SWEEP_MS),
        Vec::<PathBuf>::new()
    );
    assert_eq!(sites.out_of_the_way(&asked, KEEP_MS), Vec::<PathBuf>::new());
    // Named again, it begins anew.
    let both = Asked::from([
        (kept.clone(), BTreeSet::new()),
        (left.clone(), BTreeSet::new()),
    ]);
    sites.out_of_the_way(&both, KEEP_MS + SWEEP_MS);
    sites.out_of_the_way(&asked, KEEP_MS + 2 * SWEEP_MS);
    assert!(sites.is_here(&left));
    let gone = sites.out_of_the_way(&asked, 2 * KEEP_MS + 3 * SWEEP_MS);
    let going = |path: &PathBuf| path.extension().is_some_and(|end| end == GOING);
    assert!(gone.len() == 2 && gone.iter().all(going), "{gone:?}");
    assert!(sites.is_here(&kept) && !sites.is_here(&left));
}
