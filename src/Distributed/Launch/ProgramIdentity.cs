using System.Reflection;

namespace LongNet.Distributed.Launch;

/// <summary>
/// Which program a rank runs. Ranks of different programs would exchange tensors that the other does not expect.
/// </summary>
internal static class ProgramIdentity
{
    /// <summary>
    /// E.g. "longnet 0.1.0+abc (build 1f2e…)": name and version, and a digest of the builds of its assemblies.
    /// </summary>
    public static string Current { get; } = Describe(Assembly.GetEntryAssembly() ?? typeof(ProgramIdentity).Assembly);

    private static string Describe(Assembly program)
    {
        string version = program.GetCustomAttribute<AssemblyInformationalVersionAttribute>()?.InformationalVersion
            ?? "unknown";
        // The module version of an assembly changes with its sources.
        Guid[] builds =
        [
            .. program
                .GetReferencedAssemblies()
                .Where(name => name.Name!.StartsWith("LongNet.", StringComparison.Ordinal))
                .OrderBy(name => name.Name, StringComparer.Ordinal)
                .Select(name => Assembly.Load(name).ManifestModule.ModuleVersionId)
                .Prepend(program.ManifestModule.ModuleVersionId),
        ];
        byte[] bytes = [.. builds.SelectMany(build => build.ToByteArray())];
        string digest = Convert.ToHexStringLower(System.Security.Cryptography.SHA256.HashData(bytes))[..12];
        return $"{program.GetName().Name} {version} (build {digest})";
    }
}
