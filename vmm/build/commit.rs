//! Which commit a checkout is at.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What git says of a checkout.
pub struct Checkout {
    /// The commit, in short.
    pub commit: String,
    /// Files and folders that change when the commit does.
    pub watched: Vec<PathBuf>,
}

/// The checkout with this root. None: it is none, or git cannot tell.
pub fn checkout(root: &Path) -> Option<Checkout> {
    // git would look further up, and a package that lies somewhere below a checkout is no part of it.
    if !root.join(".git").exists() {
        return None;
    }
    let commit = git(root, &["rev-parse", "--short=12", "HEAD"])?;
    // Of a worktree some of these are its own and some are shared; git knows which. A detached HEAD holds the commit itself.
    let branch = git(root, &["symbolic-ref", "--quiet", "HEAD"]);
    let branch = branch.and_then(|branch| nearest(path_in(root, &branch)?));
    let others = ["HEAD", "packed-refs", "reftable/tables.list"].map(|name| path_in(root, name));
    // One that is not there would have everything built each time.
    let others = others.into_iter().flatten().filter(|path| path.exists());
    Some(Checkout { commit, watched: branch.into_iter().chain(others).collect() })
}

/// Where git has a file of its own.
fn path_in(root: &Path, name: &str) -> Option<PathBuf> {
    Some(root.join(git(root, &["rev-parse", "--git-path", name])?))
}

/// A branch may be in `packed-refs` only. Its next commit makes the file, in a folder that is there or is made too.
fn nearest(path: PathBuf) -> Option<PathBuf> {
    path.ancestors().find(|path| path.exists()).map(Path::to_owned)
}

/// What git prints; None: there is no git, or it fails.
fn git(root: &Path, arguments: &[&str]) -> Option<String> {
    let mut git = Command::new("git");
    git.arg("-C").arg(root).args(arguments).stdin(Stdio::null()).stderr(Stdio::null());
    // A hook has these of the repository that it runs in, which may be another one.
    for variable in ["GIT_DIR", "GIT_WORK_TREE", "GIT_COMMON_DIR"] {
        git.env_remove(variable);
    }
    let output = git.output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}
