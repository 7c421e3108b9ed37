//! SLURM's short forms: `n[01-03,7],gpu-a` for hosts and `2(x3),1` for tasks per node.

/// More hosts or nodes than this in one list are taken for a mistake.
const MOST: usize = 100_000;

/// The hosts of a list as `n[01-03,7],gpu-a`, in its order; brackets may stand several times in a name.
///
/// # Errors
/// In words, where the list is none.
pub fn expand_hosts(list: &str) -> Result<Vec<String>, String> {
    let mut hosts = Vec::new();
    for name in split_outside_brackets(list)? {
        if name.is_empty() {
            return Err("has an empty name in it".to_owned());
        }
        expand_name("", name, &mut hosts)?;
    }
    Ok(hosts)
}

/// Splits at the commas that no bracket encloses.
fn split_outside_brackets(list: &str) -> Result<Vec<&str>, String> {
    let mut names = Vec::new();
    let (mut start, mut is_inside) = (0, false);
    for (at, character) in list.char_indices() {
        match character {
            '[' if !is_inside => is_inside = true,
            ']' if is_inside => is_inside = false,
            '[' | ']' => return Err("has brackets that do not match".to_owned()),
            ',' if !is_inside => {
                names.push(&list[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    if is_inside {
        return Err("has brackets that do not match".to_owned());
    }
    names.push(&list[start..]);
    Ok(names)
}

/// Adds every host of `name`, each with `before` in front.
fn expand_name(before: &str, name: &str, hosts: &mut Vec<String>) -> Result<(), String> {
    let Some((plain, rest)) = name.split_once('[') else {
        if hosts.len() == MOST {
            return Err(format!("names more than {MOST} hosts"));
        }
        hosts.push(format!("{before}{name}"));
        return Ok(());
    };
    let (ranges, rest) = rest.split_once(']').ok_or("has brackets that do not match")?;
    for range in ranges.split(',') {
        let (low, high) = range.split_once('-').unwrap_or((range, range));
        let number = |text: &str| match text.bytes().all(|byte| byte.is_ascii_digit()) {
            true => text.parse::<u64>().map_err(|_| format!("has `{text}` in place of a number")),
            false => Err(format!("has `{text}` in place of a number")),
        };
        let (first, last) = (number(low)?, number(high)?);
        if last < first {
            return Err(format!("has the range `{range}`, which ends before it begins"));
        }
        for number in first..=last {
            // `01-10` is padded as its first number is.
            let width = low.len();
            expand_name(&format!("{before}{plain}{number:0width$}"), rest, hosts)?;
        }
    }
    Ok(())
}

/// The tasks of each node of a list as `2(x3),1`: here 2, 2, 2 and 1.
///
/// # Errors
/// In words, where the list is none.
pub fn expand_tasks_per_node(list: &str) -> Result<Vec<usize>, String> {
    let mut tasks = Vec::new();
    for part in list.split(',') {
        let (count, repeats) = match part.split_once("(x") {
            Some((count, rest)) => (count, rest.strip_suffix(')').and_then(|repeats| repeats.parse().ok())),
            None => (part, Some(1)),
        };
        match (count.parse::<usize>(), repeats) {
            (Ok(count), Some(repeats)) if repeats <= MOST - tasks.len() => {
                tasks.extend(std::iter::repeat_n(count, repeats));
            }
            _ => return Err(format!("has `{part}` in place of a number of tasks as `2` or `2(x3)`")),
        }
    }
    Ok(tasks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_hosts_are_expanded_in_their_order() {
        for (list, expected) in [
            ("gpu-a", "gpu-a"),
            ("n[01-03,7],gpu-a", "n01 n02 n03 n7 gpu-a"),
            ("a,b,c.example.org", "a b c.example.org"),
            ("n[9-11]", "n9 n10 n11"),
            ("n[098-101]x", "n098x n099x n100x n101x"),
            ("r[1-2]n[0,3]", "r1n0 r1n3 r2n0 r2n3"),
            ("n[5]", "n5"),
        ] {
            assert_eq!(expand_hosts(list).expect(list).join(" "), expected, "{list}");
        }
    }

    #[test]
    fn what_is_no_list_of_hosts_is_refused() {
        for (list, expected) in [
            ("n[1-3", "brackets"),
            ("n1-3]", "brackets"),
            ("n[[1]]", "brackets"),
            ("a,,b", "empty name"),
            ("", "empty name"),
            ("n[a-b]", "`a`"),
            ("n[1-]", "``"),
            ("n[]", "``"),
            ("n[3-1]", "ends before it begins"),
            ("n[1-99999999999999999999]", "in place of a number"),
            ("n[0-999999]", "more than 100000"),
        ] {
            let said = expand_hosts(list).expect_err(list);
            assert!(said.contains(expected), "{list}: {said}");
        }
    }

    #[test]
    fn tasks_per_node_are_counted() {
        assert_eq!(expand_tasks_per_node("2(x3),1"), Ok(vec![2, 2, 2, 1]));
        assert_eq!(expand_tasks_per_node("8"), Ok(vec![8]));
        assert_eq!(expand_tasks_per_node("1,4(x2)"), Ok(vec![1, 4, 4]));
        for list in ["", "x", "2(3)", "2(x3", "2(x)", "1,,2", "1(x99999999)", "-1"] {
            assert!(expand_tasks_per_node(list).is_err(), "{list}");
        }
    }
}
