//! Merging of settings: built-in < pool < slot < task.
//!
//! Scalars: the most specific wins. `allowed_tools` add up, `mcp_servers` merge by name; `disallowed_tools`, `tools`,
//! `json_schema`, budgets and all that names the task itself are the task's alone.

use super::options::{PermissionMode, TaskOptions};

/// What holds for a task: `task` over `slot` over `pool`, each as far as it says something.
#[must_use]
pub fn merge(pool: &TaskOptions, slot: &TaskOptions, task: &TaskOptions) -> TaskOptions {
    let scalar = |pick: fn(&TaskOptions) -> Option<String>| pick(task).or_else(|| pick(slot)).or_else(|| pick(pool));
    let mut allowed_tools: Vec<String> = Vec::new();
    for tool in [pool, slot, task].into_iter().flat_map(|level| &level.allowed_tools) {
        if !allowed_tools.contains(tool) {
            allowed_tools.push(tool.clone());
        }
    }
    let mut mcp_servers = pool.mcp_servers.clone();
    mcp_servers.extend(slot.mcp_servers.clone());
    mcp_servers.extend(task.mcp_servers.clone());
    TaskOptions {
        model: scalar(|level| level.model.clone()),
        fallback_model: scalar(|level| level.fallback_model.clone()),
        effort: task.effort.or(slot.effort).or(pool.effort),
        permission_mode: task.permission_mode.or(slot.permission_mode).or(pool.permission_mode),
        max_turns: task.max_turns.or(slot.max_turns).or(pool.max_turns),
        system_prompt: scalar(|level| level.system_prompt.clone()),
        replace_system_prompt: scalar(|level| level.replace_system_prompt.clone()),
        allowed_tools,
        disallowed_tools: task.disallowed_tools.clone(),
        tools: task.tools.clone(),
        mcp_servers,
        strict_mcp_config: task.strict_mcp_config.or(slot.strict_mcp_config).or(pool.strict_mcp_config),
        json_schema: task.json_schema.clone(),
        max_budget_usd: task.max_budget_usd,
        timeout_s: task.timeout_s.or(slot.timeout_s).or(pool.timeout_s),
        idle_timeout_s: task.idle_timeout_s.or(slot.idle_timeout_s).or(pool.idle_timeout_s),
        queue_timeout_s: task.queue_timeout_s.or(slot.queue_timeout_s).or(pool.queue_timeout_s),
        max_attempts: task.max_attempts.or(slot.max_attempts).or(pool.max_attempts),
        working_dir: scalar(|level| level.working_dir.clone()),
        isolation: task.isolation.or(slot.isolation).or(pool.isolation),
        lane: task.lane.clone(),
        needs: task.needs.clone(),
        priority: task.priority,
        delay_s: task.delay_s,
        after: task.after.clone(),
        after_failure: task.after_failure,
        tags: task.tags.clone(),
        once: task.once.clone(),
        fail_on_denied: task.fail_on_denied.or(slot.fail_on_denied).or(pool.fail_on_denied),
        continue_from: task.continue_from,
        resume_on_retry: task.resume_on_retry.or(slot.resume_on_retry).or(pool.resume_on_retry),
        review: task.review,
        max_rejections: task.max_rejections,
        coordinator: task.coordinator.clone(),
    }
}

/// The permission mode that applies where nobody says one: without isolation, files are read and not written.
#[must_use]
pub fn permission_mode(merged: &TaskOptions) -> PermissionMode {
    merged.permission_mode.unwrap_or(PermissionMode::Plan)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn options(value: serde_json::Value) -> TaskOptions {
        TaskOptions::from_json(value.as_object().unwrap()).unwrap()
    }

    #[test]
    fn the_most_specific_wins_and_lists_add_up() {
        let pool = options(json!({"model": "a", "effort": "low", "allowed_tools": ["Read"], "tools": ["X"],
            "mcp_servers": {"one": {"v": 1}, "two": {"v": 1}}, "max_budget_usd": 1}));
        let slot = options(json!({"model": "b", "timeout_s": 9, "allowed_tools": ["Bash"]}));
        let task = options(json!({"model": "c", "allowed_tools": ["Read", "Edit"], "mcp_servers": {"two": {"v": 2}}}));
        let expected = options(json!({"model": "c", "effort": "low", "timeout_s": 9,
            "allowed_tools": ["Read", "Bash", "Edit"], "mcp_servers": {"one": {"v": 1}, "two": {"v": 2}}}));
        assert_eq!(merge(&pool, &slot, &task), expected);
        assert_eq!(merge(&pool, &slot, &TaskOptions::default()).model.as_deref(), Some("b"));
    }

    #[test]
    fn merging_nothing_over_a_task_keeps_it() {
        let task = options(json!({"model": "m", "tags": ["x"], "once": "k", "lane": "big", "fail_on_denied": true,
            "tools": [], "disallowed_tools": ["Bash"], "json_schema": {"type": "object"}, "max_budget_usd": 2.5}));
        let nothing = TaskOptions::default();
        assert_eq!(merge(&nothing, &nothing, &task), task);
        assert_eq!(permission_mode(&task), PermissionMode::Plan);
    }
}
