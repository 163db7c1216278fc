//! `viking env`: variables that stacks share by name. A value goes in by the command line or stdin and
//! is never printed: neither in an answer nor in an error.

use std::io::{IsTerminal, Read};

use clap::{Args, Subcommand};

use super::Context;
use super::args::Output;
use super::failure::{Failure, Outcome};
use super::lists::list as print_list;
use super::output::{Columns, out};
use crate::model::env::{SecretValue, VALUE_BYTES_MAX};
use crate::model::names::{ScopeName, VarName};
use crate::model::wire::{SetVariable, VariableChanged, VariableRow, VariableUse};

/// What is done with variables.
#[derive(Debug, Subcommand)]
pub enum EnvAction {
    /// Give a variable a value; stacks that name it get it in a new release
    #[command(after_help = "\
Examples:
  viking env set production LOG_LEVEL=debug
  viking env set production DB_PASSWORD < password.txt
  pwgen 32 1 | viking env set production DB_PASSWORD -
A node names it in viking.yml:  env: {DB_PASSWORD: \"_production:DB_PASSWORD\"}
A value after = can be seen in the shell's history and in the list of processes; stdin cannot.
Of what comes from stdin one line end at the end is left out. At most 64 KiB, no NUL.
Each time it gets a version of its own, also with the same value. Every stack whose live release
names it makes a release with it, without a build: only the nodes that name it get new containers;
the old ones stop when those are healthy, and go on if they do not get healthy. Services are not
restarted: `viking restart STACK/NODE` takes it. A commit that waits for the variable goes on.")]
    Set(SetArgs),
    /// Take a variable away; refused while a release that is live or on its way names it
    Unset(UnsetArgs),
    /// List variables with their version and who names them, never their values
    List(ListArgs),
}

/// Arguments of `env set`.
#[derive(Debug, Args)]
pub struct SetArgs {
    /// Scope: any name, such as `production` or that of a stack
    pub scope: String,
    /// Variable; without =VALUE the value comes from stdin
    #[arg(value_name = "VAR[=VALUE]")]
    // Not a type of its own: what cannot be parsed would be printed, value and all.
    pub var: String,
    /// Read the value from stdin
    #[arg(value_name = "-", hide = true)]
    pub stdin: Option<String>,
}

/// Arguments of `env unset`.
#[derive(Debug, Args)]
pub struct UnsetArgs {
    /// Scope
    pub scope: ScopeName,
    /// Variable
    pub var: VarName,
}

/// Arguments of `env list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Only this scope's
    pub scope: Option<ScopeName>,
}

/// Sets, unsets or lists.
pub(crate) async fn env(context: &Context, what: &EnvAction) -> Outcome {
    match what {
        EnvAction::Set(args) => set(context, args).await,
        EnvAction::Unset(UnsetArgs { scope, var }) => {
            let path = format!("/v1/env/{scope}/{var}");
            let changed: VariableChanged = context.client.delete(&path).await?;
            say(context, &changed)
        }
        EnvAction::List(args) => list(context, args.scope.as_ref()).await,
    }
}

async fn set(context: &Context, args: &SetArgs) -> Outcome {
    let (var, value) = match args.var.split_once('=') {
        Some((var, value)) => (var, Some(value.to_owned())),
        None => (args.var.as_str(), None),
    };
    let hint = "viking env set SCOPE VAR=VALUE, or: viking env set SCOPE VAR < FILE";
    // The scope was forgotten: without the text, which has the value in it.
    if args.scope.contains('=') {
        return Err(Failure::usage("the first word is the scope", hint));
    }
    let scope = ScopeName::parse(&args.scope);
    let scope = scope.map_err(|error| Failure::usage(error.to_string(), hint))?;
    let var = VarName::parse(var).map_err(|error| Failure::usage(error.to_string(), hint))?;
    let value = match (value, args.stdin.as_deref()) {
        (Some(value), None) => value,
        (None, None | Some("-")) => from_stdin(hint)?,
        // Without the text: it may be the value.
        (Some(_), Some(_)) | (None, Some(_)) => {
            let error = format!("what follows {var} is neither =VALUE nor -");
            return Err(Failure::usage(error, hint));
        }
    };
    let value = SecretValue::parse(value).map_err(|error| Failure::usage(error, hint))?;
    let path = format!("/v1/env/{scope}/{var}");
    let changed: VariableChanged = context.client.post(&path, &SetVariable { value }).await?;
    say(context, &changed)
}

fn from_stdin(hint: &str) -> Result<String, Failure> {
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        return Err(Failure::usage("no value is given", hint));
    }
    // As much as shows that it is too much.
    let most = u64::try_from(VALUE_BYTES_MAX).unwrap_or(u64::MAX) + 3;
    let mut bytes = Vec::new();
    stdin.lock().take(most).read_to_end(&mut bytes)?;
    if bytes.len() > VALUE_BYTES_MAX + 2 {
        let error = format!("the value on stdin has more than {VALUE_BYTES_MAX} bytes");
        return Err(Failure::usage(error, hint));
    }
    let text = String::from_utf8(bytes)
        .map_err(|_| Failure::usage("the value on stdin is not UTF-8", hint))?;
    if text.is_empty() {
        let hint = "VAR= sets an empty value";
        return Err(Failure::usage("nothing came on stdin", hint));
    }
    Ok(without_line_end(text))
}

/// Without the one line end that editors and `echo` add.
fn without_line_end(mut text: String) -> String {
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    text
}

fn say(context: &Context, changed: &VariableChanged) -> Outcome {
    let VariableChanged {
        scope,
        name,
        accepted,
        ..
    } = changed;
    match context.print.form {
        Output::Json | Output::Yaml => context.print.data(changed)?,
        Output::Name => out(&format!("{scope}/{name}\n"))?,
        Output::Table | Output::Wide => out(&format!("{scope}/{name} {accepted}\n"))?,
    }
    Ok(0)
}

async fn list(context: &Context, scope: Option<&ScopeName>) -> Outcome {
    let columns = Columns::<VariableRow> {
        narrow: &[
            ("SCOPE", |row| row.scope.to_string()),
            ("VARIABLE", |row| row.name.to_string()),
            ("VERSION", |row| row.version.to_string()),
            ("SET", |row| row.set.clone()),
            ("NAMED BY", named_by),
        ],
        wide: &[],
        name: |row| format!("{}/{}", row.scope, row.name),
    };
    let path = match scope {
        Some(scope) => format!("/v1/env?scope={scope}"),
        None => "/v1/env".to_owned(),
    };
    print_list(context, &path, &columns).await
}

/// `shop, blog at 2 (staged)`: the version where it is not the current one.
fn named_by(row: &VariableRow) -> String {
    let one = |of: &VariableUse| {
        let mut text = of.stack.to_string();
        if of.version != row.version {
            text.push_str(&format!(" at {}", of.version));
        }
        if of.release != crate::model::status::Role::Live {
            text.push_str(&format!(" ({})", of.release));
        }
        text
    };
    match row.used_by.is_empty() {
        true => "-".to_owned(),
        false => row.used_by.iter().map(one).collect::<Vec<_>>().join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::names::StackName;
    use crate::model::status::Role;

    #[test]
    fn one_line_end_is_left_out() {
        let without = |text: &str| without_line_end(text.to_owned());
        assert_eq!(without("a\n"), "a");
        assert_eq!(without("a\r\n"), "a");
        assert_eq!(without("a\nb\n\n"), "a\nb\n");
        assert_eq!(without("a\r"), "a\r");
    }

    #[test]
    fn a_list_says_who_is_behind() {
        let used = |stack: &str, release, version| VariableUse {
            stack: StackName::parse(stack).unwrap(),
            release,
            version,
        };
        let mut row = VariableRow {
            scope: "prod".parse().unwrap(),
            name: "TOKEN".parse().unwrap(),
            version: 3,
            set: String::new(),
            used_by: Vec::new(),
        };
        assert_eq!(named_by(&row), "-");
        row.used_by = vec![used("blog", Role::Live, 3), used("shop", Role::Staged, 2)];
        assert_eq!(named_by(&row), "blog, shop at 2 (staged)");
    }
}
