//! Arguments of `plan`, `apply` and `diff`.

use clap::Args;

use crate::model::foretold::PlanId;
use crate::model::names::StackName;

/// Arguments of `plan`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  viking plan                     the folder here, as if it were committed and pushed now
  viking plan ../shop             another folder
  viking plan --stack shop        the newest commit of what shop follows
  viking plan redesign            a branch of the stack that the viking.yml here names
  viking plan 1a2b3c4 --stack shop
Nothing is built and nothing is changed. Printed is what would happen if every container
started well: images to build and why, what becomes of each node and which fields differ,
where jobs would be, what is away meanwhile, and the order; with `-o wide` what stays as well.
Of jobs that wait for others it is a guess which waits longer, so that two may swap hosts.
Values of `env` are never shown. An image of another registry that is not in use yet is not
looked up. The digest names all of it: `viking apply --plan DIGEST` does it if it is still so.
Exit codes with --exit-code: 0 nothing would change, 1 something would, 2 it would fail or
cannot be told.")]
pub struct PlanArgs {
    /// A folder with a viking.yml, a branch, or the beginning of a commit's id [default: the folder here, or
    /// the newest commit with --stack]
    #[arg(value_name = "REV|PATH")]
    pub what: Option<String>,
    /// Whose branch or commit it is
    #[arg(long, value_name = "STACK")]
    pub stack: Option<StackName>,
    /// Say by the exit code whether anything would change
    #[arg(long)]
    pub exit_code: bool,
}

/// Arguments of `apply`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  viking suspend shop             commits of shop wait for your word
  viking plan --stack shop        what the newest one would do, and its digest
  viking apply --plan DIGEST      does that, and nothing else

Refused when a newer commit has come, or the same one would do something else by now, because
of what was released, moved or lost since. The stack stays suspended.
It does not wait for the end: `viking status STACK` says how it goes.")]
pub struct ApplyArgs {
    /// What `viking plan` printed last
    #[arg(long, value_name = "DIGEST")]
    pub plan: PlanId,
}

/// Arguments of `diff`.
#[derive(Debug, Args)]
#[command(after_help = "\
What differs between what runs and what the newest commit says: what that commit would change
(fields, images, jobs, routes), and what is not as it should be already.

Exit codes: 0 nothing differs, 1 something does, 2 it cannot be told.")]
pub struct DiffArgs {
    /// Only this stack
    #[arg(value_name = "STACK")]
    pub stack: Option<StackName>,
}
