//! Parses the command line into a [`Command`].
//!
//! Document: POSIX.1-2017, Base Definitions, section 12.2, with three exceptions: options have long names, as GNU's do;
//! they may also follow the command; and `--` does not end them.
//!
//! ```text
//!     quinistry [serve] [--listen ADDRESS] [--quiet | --explain] [--fault RULE]... [--with FILE]...
//!     quinistry healthcheck [--listen ADDRESS]
//!     quinistry save | digest | k8s parent | k8s child [--with FILE]...
//!     quinistry sbom | help | version
//! ```
//!
//! A command refuses an option that it does not use. The exception is `--with`: the entrypoint of an image with several
//! platforms is `/amd64/quinistry --with /arm64/quinistry`, and `docker run IMAGE digest` appends the command to it.
//! `--help` and `--version` end the parsing, so the arguments after them are ignored. The command `help` ignores
//! further words and valid options, so that `quinistry help k8s` works. An option overrides its variable
//! (`QUINISTRY_LISTEN` or `QUINISTRY_FAULT`). Only the commands that use a variable read it, so an invalid value does
//! not affect other commands.
//!
//! Deliberately absent: name resolution. `localhost` means 127.0.0.1 here, and every other host must be an address, so
//! that starting never waits for a name server.

use std::mem::take;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::fault::Faults;
use crate::image::PORT;
use crate::kubernetes;
use crate::log::Requests;

/// The first part of the text of `--help`, which [`fault::HELP`](crate::fault::HELP) completes.
pub const HELP: &str = include_str!("options.txt");

/// The command to run, with its options.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command {
    /// Serve the image.
    Serve(Serve),
    /// Check the health of the server that listens on this address.
    Healthcheck(SocketAddr),
    /// Write the image, which also holds these executables, to standard output.
    Save(Vec<String>),
    /// Print the name and digest of the image, which also holds these executables.
    Digest(Vec<String>),
    /// Print this manifest, pinned to the image, which also holds these executables.
    Kubernetes(&'static str, Vec<String>),
    /// Print the bill of materials.
    Sbom,
    /// Print [`HELP`] and the rules of `--fault`.
    Help,
    /// Print the version.
    Version,
}

/// The options of `serve`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Serve {
    /// The address to listen on. `[::]` means every address of the machine, whether the machine has IPv6 or not.
    pub address: SocketAddr,
    /// How much the log shows of each request.
    pub requests: Requests,
    /// The rules that make responses wrong.
    pub faults: Faults,
    /// The executables for other processors that the image includes.
    pub with: Vec<String>,
}

/// Returns the wildcard address, which stands for every address of the machine, with this port.
const fn every(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port)
}

/// Parses an address in the form of `--listen`.
fn parse_address(value: &str) -> Option<SocketAddr> {
    // `u16` would accept a sign.
    let port = |text: &str| text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()));
    if let Some(port) = port(value.strip_prefix(':').unwrap_or(value)) {
        Some(every(port))
    } else if let Some(port) = value.strip_prefix("localhost:").and_then(port) {
        Some((Ipv4Addr::LOCALHOST, port).into())
    } else {
        value.parse().ok()
    }
}

/// Formats an address in the form of `--listen`.
pub fn format_address(address: SocketAddr) -> String {
    let port = address.port();
    if address == every(port) { port.to_string() } else { address.to_string() }
}

const NO_ADDRESS: &str = "--listen requires an address, such as 8080 or 127.0.0.1:8080";
const NO_FILE: &str = "--with requires a file";
const NO_RULE: &str = "--fault requires a rule, such as layer=cut or any=503@first:2";
const NO_MANIFEST: &str = "k8s requires `parent` or `child`";
const QUIET_AND_EXPLAIN: &str = "--quiet logs no requests, so --explain has nothing to explain; use one of them";

/// Returns an error for an argument that is unknown or out of place.
fn unexpected(argument: &str) -> String {
    let meant = match argument.split('=').next() {
        // The names that other programs have for `--listen`.
        Some("-p" | "--port" | "-l" | "--bind" | "--host" | "--addr" | "--address") => {
            "; did you mean --listen?".into()
        }
        _ if parse_address(argument).is_some() => format!("; did you mean --listen {argument}?"),
        _ => String::new(),
    };
    format!("unexpected argument {argument:?}{meant}")
}

/// Returns how to correct an address that cannot be parsed.
fn correction(value: &str) -> String {
    let host_and_port = value.rsplit_once(':').filter(|(host, _)| !host.is_empty());
    let address = value.trim_start_matches('[').trim_end_matches(']').parse();
    match (address, host_and_port) {
        (Ok(IpAddr::V6(_)), _) if !value.starts_with('[') => {
            "an IPv6 address needs brackets, and a port after them: [::1]:8080".into()
        }
        (Ok(address), _) => format!("it has no port; did you mean {}?", SocketAddr::new(address, PORT)),
        _ if value == "localhost" => format!("it has no port; did you mean localhost:{PORT}?"),
        (_, Some((_, port))) if port.parse::<u16>().is_ok() => {
            "host names are not looked up (localhost is 127.0.0.1); it must be an address, as in 192.0.2.1:8080, or \
             a port alone, for every address"
                .into()
        }
        _ => "it must be a port, or an address and a port: 8080, localhost:8080, 192.0.2.1:8080, [::1]:8080".into(),
    }
}

/// Parses the arguments after the program's name. `variable` returns the value of an environment variable if it is set.
/// Fails if an argument is unknown, is out of place, or lacks a valid value, or if a variable that the command uses has
/// an invalid value. The error is a message for the user.
pub fn parse(arguments: &[String], variable: impl Fn(&str) -> Option<String>) -> Result<Command, String> {
    let mut arguments = arguments.iter().map(String::as_str);
    let (mut words, mut listen, mut with, mut faults) = (Vec::new(), None, Vec::new(), Faults::default());
    let (mut quiet, mut explain) = (false, false);
    while let Some(argument) = arguments.next() {
        let (option, value) = match argument.split_once('=') {
            Some((option, value)) => (option, Some(value)),
            None => (argument, None),
        };
        let mut value = || value.or_else(|| arguments.next());
        match option {
            "--listen" => listen = Some(value().ok_or(NO_ADDRESS)?),
            "--with" => with.push(value().ok_or(NO_FILE)?.to_owned()),
            "--fault" => match value() {
                Some(rules) if !rules.trim().is_empty() => add_faults(&mut faults, "--fault", rules)?,
                _ => return Err(NO_RULE.into()),
            },
            _ => match argument {
                "--help" | "-h" => return Ok(Command::Help),
                "--version" | "-V" => return Ok(Command::Version),
                "--quiet" => quiet = true,
                "--explain" => explain = true,
                _ if argument.starts_with('-') => return Err(unexpected(argument)),
                _ => words.push(argument),
            },
        }
    }
    let mut words = words.into_iter();
    // Each command takes its options out of these variables, so an option that remains is an error.
    let command = match words.next() {
        None | Some("serve") if quiet && explain => return Err(QUIET_AND_EXPLAIN.into()),
        None | Some("serve") => {
            if faults.is_empty() {
                add_faults(&mut faults, "QUINISTRY_FAULT", &variable("QUINISTRY_FAULT").unwrap_or_default())?;
            }
            let requests = match (take(&mut quiet), take(&mut explain)) {
                (true, _) => Requests::Hidden,
                (false, true) => Requests::Explained,
                (false, false) => Requests::Shown,
            };
            let address = address(listen.take(), variable)?;
            Command::Serve(Serve { address, requests, faults: take(&mut faults), with: take(&mut with) })
        }
        Some("healthcheck") => Command::Healthcheck(address(listen.take(), variable)?),
        Some("save") => Command::Save(take(&mut with)),
        Some("digest") => Command::Digest(take(&mut with)),
        Some("k8s") => {
            let manifest = match words.next() {
                Some("parent") => kubernetes::PARENT,
                Some("child") => kubernetes::CHILD,
                _ => return Err(NO_MANIFEST.into()),
            };
            Command::Kubernetes(manifest, take(&mut with))
        }
        Some("sbom") => Command::Sbom,
        Some("help") => return Ok(Command::Help),
        Some("version") => Command::Version,
        Some(unknown) => return Err(unexpected(unknown)),
    };
    if let Some(surplus) = words.next() {
        return Err(unexpected(surplus));
    }
    let left =
        [("--listen", listen.is_some()), ("--quiet", quiet), ("--explain", explain), ("--fault", !faults.is_empty())];
    match left.into_iter().find(|(_, is_left)| *is_left) {
        Some((option, _)) => Err(format!("this command does not use {option}")),
        None => Ok(command),
    }
}

/// Adds the rules of an option or variable.
fn add_faults(faults: &mut Faults, origin: &'static str, rules: &str) -> Result<(), String> {
    faults.add(rules).map_err(|reason| format!("{origin}: {reason}"))
}

/// Returns the address from the option, else from the variable unless that is empty, else the default.
fn address(option: Option<&str>, variable: impl Fn(&str) -> Option<String>) -> Result<SocketAddr, String> {
    let variable = variable("QUINISTRY_LISTEN").filter(|value| !value.is_empty());
    let (origin, value) = match (option, &variable) {
        (Some(value), _) => ("--listen", value),
        (None, Some(value)) => ("QUINISTRY_LISTEN", &**value),
        (None, None) => return Ok(every(PORT)),
    };
    parse_address(value).ok_or_else(|| format!("{origin} is {value:?}; {}", correction(value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_line(line: &str, variable: Option<&str>) -> Result<Command, String> {
        let variable = |name: &str| variable.filter(|_| name == "QUINISTRY_LISTEN").map(String::from);
        parse(&line.split_whitespace().map(String::from).collect::<Vec<_>>(), variable)
    }

    fn unused(option: &str) -> String {
        format!("this command does not use {option}")
    }

    fn address_of(line: &str, variable: Option<&str>) -> Result<SocketAddr, String> {
        match parse_line(line, variable)? {
            Command::Serve(Serve { address, .. }) | Command::Healthcheck(address) => Ok(address),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_address_may_be_a_port_or_a_host_and_a_port() {
        for (text, address) in [
            ("8080", every(8080)),
            (":8080", every(8080)),
            ("localhost:8080", ([127, 0, 0, 1], 8080).into()),
            ("192.0.2.1:80", ([192, 0, 2, 1], 80).into()),
            ("[::]:0", every(0)),
            ("[::1]:80", ([0, 0, 0, 0, 0, 0, 0, 1_u16], 80).into()),
            ("0.0.0.0:80", ([0, 0, 0, 0], 80).into()),
        ] {
            for line in ["--listen ", "--listen=", "serve --listen ", "--listen=1 healthcheck --listen="] {
                assert_eq!(address_of(&format!("{line}{text}"), None), Ok(address), "{line}{text}");
            }
            assert_eq!(address_of("", Some(text)), Ok(address), "{text}");
            let line = format!("--listen {}", format_address(address));
            assert_eq!(address_of(&line, None), Ok(address), "as it is printed");
        }
        assert_eq!(parse_line("--listen", None), Err(String::from(NO_ADDRESS)));
    }

    #[test]
    fn an_address_that_cannot_be_parsed_is_corrected() {
        for (text, correction) in [
            ("localhost", "it has no port; did you mean localhost:8080?"),
            ("127.0.0.1", "it has no port; did you mean 127.0.0.1:8080?"),
            ("0.0.0.0", "it has no port; did you mean 0.0.0.0:8080?"),
            ("[::1]", "it has no port; did you mean [::1]:8080?"),
            ("::1", "an IPv6 address needs brackets, and a port after them: [::1]:8080"),
            ("::1:8080", "an IPv6 address needs brackets"),
            ("example.com:8080", "host names are not looked up (localhost is 127.0.0.1); it must be an address"),
            ("256.0.0.1:8080", "it must be an address, as in 192.0.2.1:8080"),
            ("example.com", "it must be a port, or an address and a port: 8080, localhost:8080"),
            (":", "it must be a port"),
            ("65536", "it must be a port"),
            ("8080:", "it must be a port"),
            ("+8080", "it must be a port"),
            (":+8080", "it must be a port"),
            ("localhost:+8080", "host names are not looked up"),
            ("-1", "it must be a port"),
        ] {
            let said = address_of(&format!("--listen={text}"), None).expect_err(text);
            assert!(said.starts_with("--listen is ") && said.contains(correction), "{said}");
        }
    }

    #[test]
    fn an_address_without_its_option_is_recognized_and_so_are_other_programs_options() {
        for (line, meant) in [
            ("8080", "--listen 8080"),
            (":8080", "--listen :8080"),
            ("serve localhost:8080", "--listen localhost:8080"),
            ("0.0.0.0:8080", "--listen 0.0.0.0:8080"),
            ("--port 8080", "--listen"),
            ("--port=8080", "--listen"),
            ("-p 8080", "--listen"),
            ("serve --bind 127.0.0.1", "--listen"),
        ] {
            let said = parse_line(line, None).expect_err(line);
            assert!(said.ends_with(&format!("; did you mean {meant}?")), "{said}");
        }
        let said = parse_line("+8080", None).expect_err("a sign");
        assert_eq!(said, "unexpected argument \"+8080\"");
    }

    #[test]
    fn the_option_comes_before_the_variable_and_the_variable_before_the_default() {
        assert_eq!(address_of("--listen 1", Some("2")), Ok(every(1)));
        assert_eq!(address_of("", Some("2")), Ok(every(2)));
        for variable in [None, Some("")] {
            assert_eq!(address_of("healthcheck", variable), Ok(every(PORT)));
        }
    }

    #[test]
    fn a_wrong_variable_stops_only_the_commands_that_use_it() {
        for line in ["", "serve", "healthcheck"] {
            let said = parse_line(line, Some("x")).expect_err(line);
            assert!(said.starts_with("QUINISTRY_LISTEN is \"x\"; "), "{line}: {said}");
        }
        for line in
            ["save", "digest", "k8s child", "sbom", "help", "version", "--help", "serve --version", "--listen 1"]
        {
            assert!(parse_line(line, Some("x")).is_ok(), "{line}");
        }
    }

    #[test]
    fn help_and_version_may_be_asked_for_in_every_way() {
        for line in ["help", "--help", "-h", "serve --help", "k8s --help", "k8s child -h", "help k8s", "save -h x"] {
            assert_eq!(parse_line(line, None), Ok(Command::Help), "{line}");
        }
        for line in ["version", "--version", "-V", "digest --version"] {
            assert_eq!(parse_line(line, None), Ok(Command::Version), "{line}");
        }
    }

    #[test]
    fn a_command_refuses_an_option_that_it_does_not_use() {
        for line in ["save", "digest", "k8s parent", "sbom", "version"] {
            assert_eq!(parse_line(&format!("{line} --listen 1"), None), Err(unused("--listen")), "{line}");
        }
        for line in ["save", "digest", "k8s parent", "sbom", "version", "healthcheck"] {
            for option in ["--quiet", "--explain", "--fault"] {
                let value = if option == "--fault" { "=any=404" } else { "" };
                let outcome = parse_line(&format!("{option}{value} {line}"), None);
                assert_eq!(outcome, Err(unused(option)), "{line}");
            }
        }
    }

    #[test]
    fn requests_are_hidden_or_explained_or_neither_but_not_both() {
        for (line, expected) in [
            ("", Requests::Shown),
            ("--quiet serve", Requests::Hidden),
            ("serve --explain", Requests::Explained),
            // `docker run IMAGE --explain` has this effect if the entrypoint has programs for other platforms.
            ("--with x --explain", Requests::Explained),
        ] {
            let Ok(Command::Serve(Serve { requests, .. })) = parse_line(line, None) else { panic!("{line}") };
            assert_eq!(requests, expected, "{line}");
        }
        for line in ["--quiet --explain", "--explain serve --quiet"] {
            assert_eq!(parse_line(line, None), Err(String::from(QUIET_AND_EXPLAIN)), "{line}");
        }
    }

    #[test]
    fn rules_may_stand_anywhere_and_the_variable_counts_if_there_are_none() {
        let rules_of = |line: &str, fault: Option<&str>| {
            let words: Vec<_> = line.split_whitespace().map(String::from).collect();
            match parse(&words, |name| fault.filter(|_| name == "QUINISTRY_FAULT").map(String::from)) {
                Ok(Command::Serve(Serve { faults, .. })) => {
                    Ok(faults.counts.into_iter().map(|(rule, _)| rule).collect())
                }
                Ok(other) => panic!("{other:?}"),
                Err(error) => Err(error),
            }
        };
        let rules = |rules: &[&str]| Ok(rules.iter().map(|rule| (*rule).to_owned()).collect::<Vec<_>>());
        let (cut, flip) = ("layer=cut", "any=flip@every:2");
        assert_eq!(rules_of("", None), rules(&[]));
        assert_eq!(rules_of("", Some("")), rules(&[]));
        assert_eq!(rules_of("", Some(" layer=cut  any=flip@every:2 ")), rules(&[cut, flip]));
        for line in ["--fault layer=cut --fault any=flip@every:2", "--fault=layer=cut serve --fault=any=flip@every:2"] {
            assert_eq!(rules_of(line, Some("tags=404")), rules(&[cut, flip]), "{line}");
        }
        assert_eq!(rules_of("--fault", None), Err(String::from(NO_RULE)));
        for (line, variable, said) in [
            ("--fault layer=cat", None, "--fault: WHAT cannot be \"cat\"\n"),
            ("", Some("layer=cut x"), "QUINISTRY_FAULT: WHERE cannot be \"x\"\n"),
        ] {
            let error = rules_of(line, variable).expect_err(line);
            assert!(error.starts_with(said) && error.contains("\n\nRules of --fault"), "{error}");
        }
    }

    #[test]
    fn files_to_carry_may_stand_anywhere_and_any_number_of_times() {
        let files = vec!["a=b".to_owned(), "--quiet".into(), "c".into()];
        for (command, expected) in [
            ("save", Command::Save(files.clone())),
            ("digest", Command::Digest(files.clone())),
            ("k8s child", Command::Kubernetes(kubernetes::CHILD, files.clone())),
            (
                "",
                Command::Serve(Serve {
                    address: every(PORT),
                    requests: Requests::Shown,
                    faults: Faults::default(),
                    with: files.clone(),
                }),
            ),
        ] {
            let line = format!("--with a=b --with=--quiet {command} --with c");
            assert_eq!(parse_line(&line, None), Ok(expected), "{line}");
        }
        assert_eq!(parse_line("save --with", None), Err(String::from(NO_FILE)));
    }

    #[test]
    fn every_command_takes_files_to_carry_because_the_images_entrypoint_has_them() {
        for line in ["", "save", "digest", "k8s child", "healthcheck", "sbom", "help", "version", "--version"] {
            assert!(parse_line(&format!("--with x {line}"), None).is_ok(), "{line}");
        }
    }

    #[test]
    fn the_first_argument_that_is_out_of_place_is_named() {
        for (line, argument) in [
            ("save k8s child", "k8s"),
            ("k8s child parent", "parent"),
            ("other save", "other"),
            ("serve -x", "-x"),
            ("--quiet=1", "--quiet=1"),
            ("-", "-"),
        ] {
            assert_eq!(parse_line(line, None), Err(unexpected(argument)), "{line}");
        }
        assert_eq!(parse(&[String::new()], |_| None), Err(unexpected("")));
        for line in ["k8s", "k8s other"] {
            assert_eq!(parse_line(line, None), Err(String::from(NO_MANIFEST)), "{line}");
        }
    }
}
