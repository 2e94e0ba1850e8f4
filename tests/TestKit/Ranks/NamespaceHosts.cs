using System.Globalization;
using System.Text.Json;

namespace LongNet.TestKit.Ranks;

/// <summary>
/// Hosts within this machine: network namespaces, each with an address of its own on a switch that joins them, and a
/// host name for whatever is started in it. They share the kernel, the processors and the file system.
/// </summary>
/// <remarks>
/// All names are within namespaces but the namespaces' own, which hold this process's id: test runs beside each other
/// do not meet, and what a killed one left is found and removed by the next.
/// </remarks>
public sealed class NamespaceHosts : IDisposable
{
    private const string Prefix = "longnet-test-",
        Switch = "switch";

    private static readonly TimeSpan Limit = TimeSpan.FromSeconds(30);

    private static readonly Lazy<string?> Refusal = new(Try);

    private static int made;

    private readonly string id = $"{Prefix}{Environment.ProcessId}-{Interlocked.Increment(ref made)}";
    private readonly TemporaryFolder folder = new();
    private readonly string enter,
        agent;

    /// <param name="count">How many hosts, named host0, host1, …</param>
    /// <exception cref="InvalidOperationException">They cannot be made here.</exception>
    public NamespaceHosts(int count)
    {
        Count = count;
        RemoveLeftovers();
        IEnumerable<int> all = Enumerable.Range(0, count);
        string names = folder.Write(
            "names",
            "127.0.0.1 localhost\n" + string.Concat(all.Select(host => $"{Address(host)} {Name(host)}\n"))
        );
        HostFile = folder.Write(
            "hosts",
            "# one rank each\n\n" + string.Concat(all.Select(host => $"{Name(host)} slots=1\n"))
        );
        // HOST COMMAND [ARGUMENT...], with this side's environment: what is typed at a host.
        enter = Script(
            "enter",
            $"""
            host=$1; shift
            exec nsenter --net=/run/netns/{id}-"$host" unshare --uts --mount \
              sh -c 'hostname "$0" && mount --bind {names} /etc/hosts && exec "$@"' "$host" "$@"
            """
        );
        // HOST WORD..., as ssh does it: a shell's command line, with none of this side's environment but what a login
        // has.
        agent = Script(
            "agent",
            $"""
            host=$1; shift
            exec env -i HOME="$HOME" PATH="$PATH" ${"{"}DOTNET_ROOT:+DOTNET_ROOT="$DOTNET_ROOT"{"}"} \
              {enter} "$host" sh -c "$*"
            """
        );
        try
        {
            Ip($"netns add {id}-{Switch}");
            Ip($"-n {id}-{Switch} link add bridge type bridge");
            Ip($"-n {id}-{Switch} link set bridge up");
            foreach (int host in all)
            {
                Ip($"netns add {Namespace(host)}");
                Ip($"-n {Namespace(host)} link add eth0 type veth peer name {Port(host)} netns {id}-{Switch}");
                Ip($"-n {id}-{Switch} link set {Port(host)} master bridge up");
                Ip($"-n {Namespace(host)} addr add {Address(host)}/24 dev eth0");
                Ip($"-n {Namespace(host)} link set eth0 up");
                Ip($"-n {Namespace(host)} link set lo up");
            }

            ProgramRun.ToEnd(Limit, enter, [Name(0), "true"]).AssertSuccess();
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    /// <summary>Why this machine lets no test make hosts; null where it does.</summary>
    public static string? WhyRefused => Refusal.Value;

    public int Count { get; }

    /// <summary>Names all hosts with one rank each, as scripts/cluster takes it.</summary>
    public string HostFile { get; }

    public static string Name(int host) => $"host{host}";

    /// <summary>
    /// Starts one rank on every host from the first, over TCP alone, with the script that users start.
    /// </summary>
    public ProgramRun Start(
        MpiKind kind,
        string program,
        IEnumerable<string> arguments,
        IReadOnlyDictionary<string, string?>? environment = null
    )
    {
        // The hosts share a kernel, whose memory the libraries would else find and use. Both wait politely, as ranks
        // share cores.
        Dictionary<string, string?> variables =
            kind == MpiKind.OpenMpi
                ? new()
                {
                    ["OMPI_MCA_plm_rsh_agent"] = agent,
                    ["OMPI_MCA_pml"] = "ob1",
                    ["OMPI_MCA_btl"] = "tcp,self",
                    ["OMPI_MCA_mpi_yield_when_idle"] = "1",
                }
                : new()
                {
                    ["HYDRA_LAUNCHER"] = "rsh",
                    ["HYDRA_LAUNCHER_EXEC"] = agent,
                    ["UCX_TLS"] = "tcp,self",
                };
        foreach (var (name, value) in environment ?? new Dictionary<string, string?>())
            variables[name] = value;
        string script = Repository.PathOf(
            kind == MpiKind.OpenMpi ? "scripts/cluster/openmpi.sh" : "scripts/cluster/mpich.sh"
        );
        return new ProgramRun(enter, [Name(0), script, HostFile, program, .. arguments], environment: variables);
    }

    /// <summary>Bytes that have left a host through the network.</summary>
    public long BytesSent(int host)
    {
        using JsonDocument links = JsonDocument.Parse(Ip($"-n {Namespace(host)} -s -json link show eth0"));
        return links.RootElement[0].GetProperty("stats64").GetProperty("tx").GetProperty("bytes").GetInt64();
    }

    /// <summary>Pulls a host's cable out of the switch. It stays so.</summary>
    public void Cut(int host) => Ip($"-n {id}-{Switch} link set {Port(host)} down");

    /// <summary>The processes on a host: number and command line.</summary>
    public IReadOnlyList<string> Processes(int host) =>
        [.. ProcessesOf(Namespace(host)).Select(process => $"{process} {CommandLine(process)}")];

    /// <summary>Ends everything on the hosts and removes them.</summary>
    public void Dispose()
    {
        foreach (string each in Namespaces().Where(name => name.StartsWith($"{id}-", StringComparison.Ordinal)))
            Remove(each);
        folder.Dispose();
    }

    private static string Address(int host) => $"10.77.0.{host + 1}";

    private static string Port(int host) => $"port{host}";

    private string Namespace(int host) => $"{id}-{Name(host)}";

    private string Script(string name, string lines)
    {
        string path = folder.Write(name, $"#!/bin/sh\n{lines}\n");
        if (!OperatingSystem.IsWindows())
            File.SetUnixFileMode(path, UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.UserExecute);
        return path;
    }

    private static string? Try()
    {
        if (!OperatingSystem.IsLinux() || !Environment.IsPrivilegedProcess)
            return "Several hosts are Linux network namespaces, which only root makes.";
        try
        {
            using var one = new NamespaceHosts(1);
            return null;
        }
        catch (System.ComponentModel.Win32Exception)
        {
            return "ip is not installed here; scripts/setup.sh --tests installs it.";
        }
        catch (InvalidOperationException refused)
        {
            return "Network namespaces are refused here: "
                + $"{refused.Message.Split('\n').Last(line => line.Trim().Length > 0)}";
        }
    }

    // Of test runs that were killed.
    private static void RemoveLeftovers()
    {
        foreach (string each in Namespaces().Where(name => name.StartsWith(Prefix, StringComparison.Ordinal)))
        {
            string process = each[Prefix.Length..].Split('-')[0];
            if (!Directory.Exists($"/proc/{process}"))
                Remove(each);
        }
    }

    private static void Remove(string name)
    {
        foreach (int process in ProcessesOf(name))
            _ = ProgramRun.ToEnd(Limit, "kill", ["-9", $"{process}"]);
        // Gone already where another test run clears up too.
        _ = ProgramRun.ToEnd(Limit, "ip", ["netns", "delete", name]);
    }

    private static int[] ProcessesOf(string name)
    {
        ProgramResult pids = ProgramRun.ToEnd(Limit, "ip", ["netns", "pids", name]);
        return
        [
            .. pids
                .Output.Split('\n', StringSplitOptions.RemoveEmptyEntries)
                .Select(line => int.Parse(line, CultureInfo.InvariantCulture)),
        ];
    }

    private static string CommandLine(int process)
    {
        try
        {
            return File.ReadAllText($"/proc/{process}/cmdline").Replace('\0', ' ');
        }
        catch (IOException)
        {
            return "(ended)";
        }
    }

    // A line is a name, or a name and "(id: N)".
    private static string[] Namespaces() =>
        [.. Ip("netns list").Split('\n', StringSplitOptions.RemoveEmptyEntries).Select(line => line.Split(' ')[0])];

    private static string Ip(string command) =>
        ProgramRun.ToEnd(Limit, "ip", command.Split(' ')).AssertSuccess().Output;
}
