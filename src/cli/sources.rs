//! `viking add`, `remove` and `sync`: which repositories are followed.

use std::io::{BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Context;
use super::args::{Output, RemoveArgs, SourceArgs, SyncArgs};
use super::failure::{Failure, Outcome};
use super::output::{note, out};
use crate::model::wire::{Accepted, AddRequest, Added, SyncRequest};

/// Time between two looks at a remote: a look costs the other side little, a minute feels long.
const POLL_REMOTE: Duration = Duration::from_secs(30);
/// For a repository on this machine a look is a few file reads.
const POLL_LOCAL: Duration = Duration::from_secs(2);

/// Follows a repository.
pub(crate) async fn add(context: &Context, args: &SourceArgs) -> Outcome {
    let request = request(args)?;
    let added: Added = context.client.post("/v1/stacks", &request).await?;
    let stack = &added.stack;
    match context.print.form {
        Output::Json | Output::Yaml => context.print.data(&added)?,
        Output::Name => out(&format!("{stack}\n"))?,
        Output::Table | Output::Wide => out(&format!("following {} as {stack}\n", request.url))?,
    }
    context
        .print
        .remark(&format!("see how it goes: viking status {stack}"));
    Ok(0)
}

/// Stops following a repository, once its name was typed.
pub(crate) async fn remove(context: &Context, args: &RemoveArgs) -> Outcome {
    let stack = &args.stack;
    let typed = match &args.confirm {
        Some(name) => name.clone(),
        None => ask(context, args)?,
    };
    if typed.trim() != stack.as_str() {
        return Err(Failure::usage(
            format!("{:?} is not {stack}: nothing was removed", typed.trim()),
            format!("type the name of the stack, or give --confirm {stack}"),
        ));
    }
    let path = format!("/v1/stack/{stack}?confirm={stack}");
    let accepted: Accepted = context.client.delete(&path).await?;
    say(context, &accepted)
}

/// Asks for a look at the repository now.
pub(crate) async fn sync(context: &Context, args: &SyncArgs) -> Outcome {
    let path = format!("/v1/stack/{}/sync", args.stack);
    let request = SyncRequest { pull: args.pull };
    let accepted: Accepted = context.client.post(&path, &request).await?;
    say(context, &accepted)
}

pub(super) fn say(context: &Context, accepted: &Accepted) -> Outcome {
    match context.print.form {
        Output::Json | Output::Yaml => context.print.data(accepted)?,
        Output::Name => out(&format!("{}\n", accepted.stack))?,
        Output::Table | Output::Wide => {
            out(&format!("{}: {}\n", accepted.stack, accepted.accepted))?;
        }
    }
    Ok(0)
}

fn ask(context: &Context, args: &RemoveArgs) -> Result<String, Failure> {
    let stack = &args.stack;
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return Err(Failure::usage(
            format!("removing {stack} needs its name typed, and nobody is here to type it"),
            format!("give --confirm {stack}"),
        ));
    }
    let api = &context.api;
    note(&format!(
        "{stack} at {api}: its jobs are stopped and removed, its volumes stay."
    ));
    let mut stderr = std::io::stderr().lock();
    write!(stderr, "Type its name to remove it: ")?;
    stderr.flush()?;
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    Ok(line)
}

/// What to ask the API for, with a path made absolute and checked.
pub(crate) fn request(args: &SourceArgs) -> Result<AddRequest, Failure> {
    let local = is_path(&args.repository);
    let url = if local {
        local_repository(&args.repository)?
    } else {
        args.repository.clone()
    };
    let poll = args
        .poll
        .unwrap_or(if local { POLL_LOCAL } else { POLL_REMOTE });
    Ok(AddRequest {
        url,
        branch: args.branch.clone(),
        path: args.path.clone(),
        poll_ms: u64::try_from(poll.as_millis()).unwrap_or(u64::MAX),
    })
}

/// A URL has a scheme, or is `user@host:path`: a colon before any slash. All else is a path.
fn is_path(repository: &str) -> bool {
    if repository.contains("://") {
        return false;
    }
    match (repository.find(':'), repository.find('/')) {
        (Some(colon), Some(slash)) => slash < colon,
        (Some(_), None) => Path::new(repository).exists(),
        (None, _) => true,
    }
}

fn local_repository(text: &str) -> Result<String, Failure> {
    let path = std::fs::canonicalize(text).map_err(|error| {
        let hint = "give the path of a git repository on this machine, or a URL like \
                    https://host/name.git or ssh://git@host/name.git";
        Failure::usage(format!("cannot look at {text:?}: {error}"), hint)
    })?;
    if is_repository(&path) {
        return path.into_os_string().into_string().map_err(|_| {
            Failure::usage(
                format!("the path of {text:?} is not UTF-8"),
                "rename the folder",
            )
        });
    }
    let shown = path.display();
    let hint = match path.ancestors().skip(1).find(|above| is_repository(above)) {
        Some(root) => format!(
            "it is a folder of the repository {}: give that, with --path {}",
            root.display(),
            path.strip_prefix(root).unwrap_or(&path).display()
        ),
        None => {
            format!("viking follows commits: cd {shown} && git init && git add . && git commit")
        }
    };
    Err(Failure::usage(
        format!("{shown} is not a git repository"),
        hint,
    ))
}

/// A work tree (`.git` may be a file, as in linked ones) or a bare repository.
fn is_repository(path: &Path) -> bool {
    let all = |names: &[&str]| {
        names
            .iter()
            .all(|name| path.join(PathBuf::from(name)).exists())
    };
    all(&[".git"]) || all(&["HEAD", "objects", "refs"])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(repository: &str) -> SourceArgs {
        SourceArgs {
            repository: repository.to_owned(),
            branch: None,
            path: String::new(),
            poll: None,
        }
    }

    #[test]
    fn urls_are_left_alone_and_paths_are_made_absolute() {
        for url in [
            "https://h/a.git",
            "ssh://git@h/a",
            "file:///srv/a",
            "git@h:a/b.git",
            "h:a",
        ] {
            assert_eq!(request(&args(url)).unwrap().url, url);
        }
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join(".git")).unwrap();
        let found = request(&args(dir.path().to_str().unwrap())).unwrap();
        assert_eq!(
            found.url,
            std::fs::canonicalize(dir.path()).unwrap().to_str().unwrap()
        );
        assert_eq!(found.poll_ms, 2_000);
    }

    #[test]
    fn a_folder_that_is_no_repository_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let failure = request(&args(dir.path().to_str().unwrap())).unwrap_err();
        assert!(
            failure.error.ends_with("is not a git repository"),
            "{}",
            failure.error
        );
        assert!(failure.hint.contains("git init"), "{}", failure.hint);

        std::fs::create_dir_all(dir.path().join("shop/.git")).unwrap();
        std::fs::create_dir_all(dir.path().join("shop/deploy")).unwrap();
        let inside = dir.path().join("shop/deploy");
        let failure = request(&args(inside.to_str().unwrap())).unwrap_err();
        assert!(
            failure.hint.ends_with("with --path deploy"),
            "{}",
            failure.hint
        );

        let gone = request(&args("/nonexistent/x")).unwrap_err();
        assert_eq!(gone.code, super::super::failure::USAGE);
    }
}
