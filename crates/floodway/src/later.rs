//! Commands, options and URL schemes that are designed but not built yet: known by name, hidden from help, refused
//! with a text that says so.

use clap::{Arg, ArgAction, ArgMatches, Command};

use crate::exit::Failure;

/// An option's name, and whether it takes a value.
type LaterOption = (&'static str, bool);

/// Options that come later, by command.
const OPTIONS: &[(&[&str], &[LaterOption])] = &[
    (&["get"], &[("min-speed", true), ("deadline", true)]),
    (
        &["publish"],
        &[
            ("relays", true),
            ("on", true),
            ("window", true),
            ("deadline", true),
            ("min-speed", true),
            ("waves", true),
        ],
    ),
    (&["torrent", "create"], &[("v2", false), ("hybrid", false)]),
];

/// Commands that come later.
const COMMANDS: &[(&[&str], &[&str])] = &[
    (&[], &["quota", "origin", "completions"]),
    (&["task"], &["pause", "resume", "explain"]),
    (&["node"], &["show", "drain"]),
];

/// Schemes of sources that come later.
const SCHEMES: &[&str] = &["s3", "gs", "az", "magnet"];

/// Adds what comes later to the command line, so that it can be told from a typing error.
pub(crate) fn extend(mut root: Command) -> Command {
    for (path, options) in OPTIONS {
        root = at(root, path, &|mut command| {
            for (name, takes_value) in *options {
                let action = if *takes_value {
                    ArgAction::Append
                } else {
                    ArgAction::Count
                };
                command = command.arg(Arg::new(*name).long(*name).hide(true).action(action));
            }
            command
        });
    }
    for (path, names) in COMMANDS {
        root = at(root, path, &|mut command| {
            for name in *names {
                let rest = Arg::new("rest")
                    .num_args(0..)
                    .trailing_var_arg(true)
                    .allow_hyphen_values(true);
                command = command.subcommand(
                    Command::new(*name)
                        .hide(true)
                        .disable_help_flag(true)
                        .arg(rest),
                );
            }
            command
        });
    }
    root
}

fn at(command: Command, path: &[&str], change: &dyn Fn(Command) -> Command) -> Command {
    match path {
        [] => change(command),
        [name, rest @ ..] => command.mut_subcommand(name, |inner| at(inner, rest, change)),
    }
}

/// Fails when the command line uses something that comes later.
pub(crate) fn refuse(matches: &ArgMatches) -> Result<(), Failure> {
    let mut path = Vec::new();
    let mut here = matches;
    while let Some((name, inner)) = here.subcommand() {
        let later = COMMANDS.iter().find(|(at, _)| *at == path.as_slice());
        path.push(name);
        if later.is_some_and(|(_, names)| names.contains(&name)) {
            return Err(not_yet(format_args!("`floodway {}`", path.join(" "))));
        }
        here = inner;
    }
    let options = OPTIONS.iter().filter(|(at, _)| *at == path.as_slice());
    for (name, takes_value) in options.flat_map(|(_, options)| *options) {
        let given = if *takes_value {
            here.contains_id(name)
        } else {
            here.get_count(name) > 0
        };
        if given {
            return Err(not_yet(format_args!(
                "`--{name}` of `floodway {}`",
                path.join(" ")
            )));
        }
    }
    Ok(())
}

/// Fails when a source's scheme is one that comes later.
pub(crate) fn refuse_scheme(source: &str) -> Result<(), Failure> {
    match source.split_once(':') {
        Some((scheme, _)) if SCHEMES.contains(&scheme.to_ascii_lowercase().as_str()) => {
            let what = if scheme.eq_ignore_ascii_case("magnet") {
                "reading from magnet links".to_owned()
            } else {
                format!("reading from `{scheme}://` buckets")
            };
            Err(not_yet(what))
        }
        _ => Ok(()),
    }
}

/// What comes later, refused.
pub(crate) fn not_yet(what: impl std::fmt::Display) -> Failure {
    Failure::usage(format_args!(
        "{what} is planned, but this version ({}) does not have it yet",
        env!("CARGO_PKG_VERSION")
    ))
    .hint("it comes with a later release; `floodway help` lists what this version can do")
}
