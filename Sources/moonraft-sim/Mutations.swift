#if MOONRAFT_MUTATIONS
    // Runs the list of planted bugs. Each is planted in a process of its own, since many of them end in a trap of
    // the replica, which counts as found.

    import Glibc
    import Simulation

    /// How a child process ended.
    private struct Outcome {
        var bug: PlantedBug
        var output: String
        var milliseconds: UInt64
        var failed: Bool
    }

    /// Finds every planted bug, two at a time; returns the exit code.
    func findPlantedBugs() -> Int32 {
        let start = milliseconds()
        var waiting = PlantedBug.all[...]
        var running: [(pid: pid_t, bug: PlantedBug, file: String, since: UInt64)] = []
        var outcomes: [Outcome] = []
        while !waiting.isEmpty || !running.isEmpty {
            while running.count < 2, let bug = waiting.popFirst() {
                let file = "/tmp/moonraft-sim.\(getpid()).\(bug.name)"
                if let pid = spawn(bug, output: file) { running.append((pid, bug, file, milliseconds())) }
            }
            var status: Int32 = 0
            let ended = waitpid(-1, &status, 0)
            guard let position = running.firstIndex(where: { $0.pid == ended }) else { continue }
            let child = running.remove(at: position)
            outcomes.append(
                Outcome(
                    bug: child.bug, output: contents(child.file), milliseconds: milliseconds() - child.since,
                    failed: status != 0))
            unlink(child.file)
        }
        report(outcomes)
        let missed = outcomes.count { !$0.failed }
        print("\(outcomes.count) planted bugs, \(missed) not found, in \(milliseconds() - start) ms")
        return missed == 0 ? 0 : 1
    }

    private func report(_ outcomes: [Outcome]) {
        for bug in PlantedBug.all {
            guard let outcome = outcomes.first(where: { $0.bug.name == bug.name }) else { continue }
            let lines = outcome.output.split(separator: "\n")
            let found = lines.first { $0.contains("FAILED") || $0.contains("trapped") }
            let seed = found?.split(separator: " ").dropFirst().first.map(String.init) ?? "-"
            var reason = found.map(String.init) ?? ""
            if reason.contains("trapped") {
                reason = lines.first { $0.contains("Fatal error") }.map(String.init) ?? reason
            }
            let verdict = outcome.failed ? "seed \(seed) of \(bug.bound)" : "NOT FOUND in \(bug.bound)"
            print("\(padded(bug.name, 34)) \(padded(verdict, 20)) \(outcome.milliseconds) ms  \(reason.prefix(150))")
        }
    }

    private func padded(_ text: String, _ width: Int) -> String {
        text + String(repeating: " ", count: max(0, width - text.count))
    }

    /// Starts this program again with one bug, writing to `output`.
    private func spawn(_ bug: PlantedBug, output: String) -> pid_t? {
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, output, O_WRONLY | O_CREAT | O_TRUNC, 0o600)
        posix_spawn_file_actions_adddup2(&actions, STDOUT_FILENO, STDERR_FILENO)
        let words = [
            "moonraft-sim", "--mutation", bug.name, "--seeds", "1..\(bug.bound)", "--stop",
        ]
        var arguments = words.map { strdup($0) } + [nil]
        defer { for argument in arguments { free(argument) } }
        // A trap must end the child at once and not write a report of seconds.
        var environment = [strdup("SWIFT_BACKTRACE=enable=no"), nil]
        defer { for variable in environment { free(variable) } }
        var pid: pid_t = 0
        let code = posix_spawn(&pid, "/proc/self/exe", &actions, nil, &arguments, &environment)
        return code == 0 ? pid : nil
    }

    private func contents(_ path: String) -> String {
        guard let file = fopen(path, "r") else { return "" }
        defer { fclose(file) }
        var bytes = [UInt8](repeating: 0, count: 1 << 16)
        let count = fread(&bytes, 1, bytes.count, file)
        return String(decoding: bytes.prefix(count), as: UTF8.self)
    }
#endif
