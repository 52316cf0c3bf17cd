//! Stories of placeholders.

use proptest::prelude::*;

use super::*;
use crate::machine::facts::tests::World;

fn sample() -> World {
    World::new()
        .output("build", r#"{"version":1.10,"tags":["a","b"],"z":1,"a":null,"id":12345678901234567890123456789012345678901234567890}"#)
        .output("build-image", "\"sha256:abc\"")
}

fn filled(text: &str) -> Result<String, String> {
    render(text, &sample().facts())
}

fn command(argv: &[&str]) -> TaskSpec {
    let argv = argv.iter().map(|element| (*element).to_string()).collect();
    TaskSpec {
        action: Some(Action::Command(CommandAction { argv, ..CommandAction::default() })),
        ..TaskSpec::default()
    }
}

/// JSON text of a string.
fn json_string(text: &str) -> String {
    serde_json::to_string(text).expect("a string")
}

#[test]
fn strings_render_as_they_are_and_other_values_as_compact_json() {
    // S-DATA-2
    for (text, expected) in [
        ("v{{ tasks.build.output.version }}", "v1.10"),
        ("{{tasks['build-image'].output}}\n", "sha256:abc\n"),
        ("{{ tasks.build.output.tags }}", r#"["a","b"]"#),
        ("{{ tasks.build.output.tags[1] }}{{ tasks.build.output.tags | first }}", "ba"),
        ("{{ tasks.build.output.a }}", "null"),
        ("{{ tasks.build.output.id }}", "12345678901234567890123456789012345678901234567890"),
        ("{{ tasks.build.output.id | string }}", "12345678901234567890123456789012345678901234567890"),
        ("{{ inputs }} of {{ inputs.env | upper }}", r#"{"env":"dev","count":3} of DEV"#),
        ("{{ inputs.count + 1 }} {{ 1.0 }} {{ 1 == 1 }} {{ none }}", "4 1.0 true null"),
        ("{{ 9223372036854775807 + 1 }}", "9223372036854775808"),
        ("{{ execution.id }}", "00000000-0000-0000-0000-000000000007"),
        ("{{ '{{' }} {{ '}}' }} ${#array} {% %} {# #}", "{{ }} ${#array} {% %} {# #}"),
        ("{{ inputs.gone | default('none') }} {{ 'a' if inputs.count > 2 else 'b' }}", "none a"),
        ("{{ tasks.build.output.tags | join(', ') }} {{ 'x' ~ tasks.build.output.tags }}", r#"a, b x["a","b"]"#),
        (
            "{{ inputs.env[:2] }}{{ inputs.env[0] }} {{ tasks.build.output.tags[-1] }} {{ 7 / 2 }} {{ 7 // 2 }}",
            "ded b 3.5 3",
        ),
        ("<{{ '<&\"\\'>' }}>", "<<&\"'>>"),
        ("no placeholder }} at all\n\n", "no placeholder }} at all\n\n"),
    ] {
        assert_eq!(filled(text).as_deref(), Ok(expected), "{text}");
    }
    let whole =
        r#"{"version":1.10,"tags":["a","b"],"z":1,"a":null,"id":12345678901234567890123456789012345678901234567890}"#;
    assert_eq!(filled("{{ tasks.build.output }}").as_deref(), Ok(whole), "keys keep their order");
}

#[test]
fn what_cannot_be_filled_is_an_error_and_never_empty_text() {
    // S-DATA-2
    for (text, words) in [
        ("a {{ tasks.build.output.gone }}", "`{{ tasks.build.output.gone }}`: there is no `gone` in an object"),
        ("{{ tasks.gone.output }}", "nothing is known of task `gone`"),
        ("{{ inputs.gone }}", "there is no `gone`"),
        ("{{ inputs.gone ~ 'x' }}", "does not exist"),
        ("{{ inputs.count | upper }}", "3 is no text"),
        ("{{ tasks.build.output.tags + tasks.build.output.tags }}", "list"),
        ("{{ 1e308 * 10 }}", "no finite number"),
        ("{{ 'x' * 100000000 }}", "costs too much"),
        ("{{ inputs.env", "no `}}`"),
        ("{{ }}", "unexpected"),
    ] {
        let fault = filled(text).expect_err(text);
        assert!(fault.contains(words), "{text}: {fault}");
    }
    let long = World::new().output("a", &json_string(&"x".repeat(600_000)));
    let fault = render("{{ tasks.a.output }}{{ tasks.a.output }}", &long.facts()).expect_err("too long");
    assert!(fault.contains("too long"), "{fault}");
}

#[test]
fn a_task_is_filled_in_as_a_whole_or_its_first_fault_names_the_field() {
    // S-DATA-2, S-DATA-3
    let mut task = command(&["echo", "{{ inputs.env }}", "plain"]);
    task.title = "for {{ inputs.env }}".into();
    task.description = "with {{ tasks.build.output.tags[0] }}, {% plain %}".into();
    let Some(Action::Command(spec)) = &mut task.action else { panic!("a command") };
    spec.env.insert("ENVIRONMENT".into(), "{{ inputs.env }}!".into());
    spec.stdin = "{{ tasks.build.output.tags }}\n".into();
    let rendered = render_task(&task, &sample().facts()).expect("filled");
    let ran = rendered.command.expect("a command");
    assert_eq!((rendered.title.as_str(), rendered.description.as_str()), ("for dev", "with a, {% plain %}"));
    assert_eq!(ran.argv, ["echo", "dev", "plain"]);
    assert_eq!(ran.env["ENVIRONMENT"], "dev!");
    assert_eq!(ran.stdin, "[\"a\",\"b\"]\n");
    assert_eq!(tasks_read(&task), ["build"]);

    // S-DATA-2: a noop fails by its title too.
    let told = TaskSpec { action: Some(Action::Noop { duration_micros: 0 }), ..task.clone() };
    assert_eq!(render_task(&told, &sample().facts()).expect("filled").title, "for dev");
    let told = TaskSpec { description: "{{ tasks.build.output.gone }}".into(), ..told };
    assert_eq!(render_task(&told, &sample().facts()).expect_err("nothing there").field, "description");
    let fault = render_task(&command(&["echo", "{{ inputs.gone }}"]), &sample().facts()).expect_err("no such input");
    assert_eq!(fault.field, "command.argv[1]");
    let nul = World::new().output("a", r#""a\u0000b""#);
    let fault = render_task(&command(&["echo", "{{ tasks.a.output }}"]), &nul.facts()).expect_err("NUL");
    assert!(fault.field == "command.argv[1]" && fault.message.contains("NUL"), "{fault:?}");
    let large = World::new().output("a", &json_string(&"x".repeat(131_071)));
    assert!(render_task(&command(&["echo", "{{ tasks.a.output }}"]), &large.facts()).is_ok());
    let fault = render_task(&command(&["echo", "{{ tasks.a.output }}x"]), &large.facts()).expect_err("too long");
    assert!(fault.message.contains("131071"), "{fault:?}");
    let fault = render_task(&command(&["{{ tasks.a.output }}"; 9]), &large.facts()).expect_err("too much in all");
    assert_eq!(fault.field, "command.argv[8]");
}

#[test]
fn a_value_does_not_choose_what_a_program_loads_or_runs() {
    // S-DATA-4
    for name in [
        "LD_PRELOAD",
        "PATH",
        "BASH_ENV",
        "ENV",
        "GIT_SSH_COMMAND",
        "NODE_OPTIONS",
        "PYTHONPATH",
        "PERL5OPT",
        "RUBYOPT",
        "JAVA_TOOL_OPTIONS",
        "_JAVA_OPTIONS",
        "IFS",
        "npm_config_script_shell",
        "NOX_OUTPUT",
        "DYLD_LIBRARY_PATH",
    ] {
        assert!(!may_be_filled(name), "{name}");
        let mut task = command(&["true"]);
        let Some(Action::Command(spec)) = &mut task.action else { panic!("a command") };
        spec.env.insert(name.into(), "{{ inputs.env }}".into());
        let fault = render_task(&task, &sample().facts()).expect_err(name);
        assert_eq!(fault.field, format!("command.env[{name:?}]"));
        let Some(Action::Command(spec)) = &mut task.action else { panic!("a command") };
        spec.env.insert(name.into(), "literal".into());
        assert!(render_task(&task, &sample().facts()).is_ok(), "{name}: a literal value is the author's own");
    }
    for name in ["ENVIRONMENT", "TARGET", "GITHUB_TOKEN", "VERSION", "X", "IMAGE"] {
        assert!(may_be_filled(name), "{name}");
    }
}

proptest! {
    #[test]
    fn any_value_comes_out_byte_for_byte_in_one_element(
        value in prop_oneof![
            "\\PC*", ".*", "[\\x00-\\x7f]*", "(\\$\\(x\\)|`x`|\\{\\{|\\}\\}|\\{%|'|\"|\\\\|\n|🦀|\u{1}|\u{4}){0,12}",
        ],
    ) {
        // S-DATA-2, S-DATA-3
        let world = World::new().output("a", &json_string(&value));
        let task = command(&["sh", "-c", "echo \"$1\"", "{{ tasks.a.output }}", "<{{ tasks.a.output | string }}>"]);
        match render_task(&task, &world.facts()) {
            Ok(rendered) => {
                let argv = rendered.command.expect("a command").argv;
                prop_assert_eq!(argv.len(), 5);
                prop_assert_eq!(&argv[3], &value);
                prop_assert_eq!(&argv[4], &format!("<{value}>"));
                prop_assert!(!value.contains('\0'));
            }
            Err(fault) => {
                prop_assert!(value.contains('\0'), "refused without a reason: {:?}", fault);
                prop_assert_eq!(fault.field.as_str(), "command.argv[3]");
            }
        }
    }

    #[test]
    fn no_field_makes_rendering_panic(text in "(\\{\\{|\\}\\}|[ -~]|\\PC|tasks\\.a\\.output|inputs| \\| ){0,24}") {
        let world = World::new().output("a", "[1,{\"k\":\"v\"}]");
        if let Err(fault) = render(&text, &world.facts()) {
            prop_assert!(!fault.is_empty());
        }
    }
}
