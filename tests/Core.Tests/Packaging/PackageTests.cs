using System.Text.Json;
using System.Text.RegularExpressions;
using System.Xml.Linq;
using LongNet.TestKit;
using LongNet.TestKit.Ranks;

namespace LongNet.Core.Tests.Packaging;

/// <summary>The package as a stranger uses it: a console project that knows nothing of this repository.</summary>
public sealed partial class PackageTests : IDisposable
{
    // Everything is in NuGet's cache where the repository was built; a slow disk copies half a gigabyte of libtorch.
    private static readonly TimeSpan Limit = TimeSpan.FromMinutes(5);

    private readonly TemporaryFolder folder = new();

    // A version of its own, so that no cache holds an older build under the same name.
    private readonly string version = $"0.0.0-test.{Guid.NewGuid():N}";

    [Fact]
    public void ReadmesFirstExample_InAPortableConsoleProject_RunsWithThePackageOnly()
    {
        Assert.SkipUnless(OperatingSystem.IsLinux(), "the console project references libtorch for Linux");
        Pack();
        folder.Write(
            "console/Program.cs",
            FirstExample() + "Console.WriteLine($\"[{string.Join(\", \", output.shape)}]\");\n"
        );
        folder.Write(
            "console/console.csproj",
            $"""
            <Project Sdk="Microsoft.NET.Sdk">
              <PropertyGroup>
                <OutputType>Exe</OutputType>
                <TargetFramework>net10.0</TargetFramework>
                <ImplicitUsings>enable</ImplicitUsings>
                <Nullable>enable</Nullable>
              </PropertyGroup>
              <ItemGroup>
                <PackageReference Include="LongNet.Core" Version="{version}" />
                <PackageReference Include="libtorch-cpu-linux-x64" Version="{CentralVersion(
                "libtorch-cpu-linux-x64"
            )}" />
              </ItemGroup>
            </Project>
            """
        );
        // In addition to the sources that this machine is set up with.
        folder.Write(
            "console/nuget.config",
            """<configuration><packageSources><add key="packed" value="../feed" /></packageSources></configuration>"""
        );

        ProgramResult result = DotNet("run", "--project", folder["console"]).AssertSuccess();

        Assert.Equal("[16, 1000, 512]\n", result.Output);
    }

    [Fact]
    public void Package_ItsDependencies_AreTorchSharpOnly()
    {
        Pack();
        using var package = System.IO.Compression.ZipFile.OpenRead(folder[$"feed/LongNet.Core.{version}.nupkg"]);
        using Stream stream = package.GetEntry("LongNet.Core.nuspec")!.Open();
        XElement metadata = XDocument.Load(stream).Root!.Elements().Single();

        Assert.Equal(["TorchSharp"], Descendants("dependency").Select(dependency => dependency.Attribute("id")!.Value));
        Assert.Equal("MIT", Descendants("license").Single().Value);
        Assert.Equal("README.md", Descendants("readme").Single().Value);
        Assert.NotNull(package.GetEntry("LICENSE"));
        Assert.NotNull(package.GetEntry("lib/net10.0/LongNet.Core.xml"));

        IEnumerable<XElement> Descendants(string name) =>
            metadata.Descendants().Where(element => element.Name.LocalName == name);
    }

    public void Dispose()
    {
        string assets = folder["console/obj/project.assets.json"];
        if (File.Exists(assets))
        {
            using JsonDocument document = JsonDocument.Parse(File.ReadAllBytes(assets));
            foreach (JsonProperty cache in document.RootElement.GetProperty("packageFolders").EnumerateObject())
            {
                string unpacked = Path.Combine(cache.Name, "longnet.core", version);
                if (Directory.Exists(unpacked))
                    Directory.Delete(unpacked, recursive: true);
            }
        }

        folder.Dispose();
    }

    // The assembly that the tests run on: nothing is built, and the repository's folders stay as they are.
    private void Pack()
    {
        string configuration = new DirectoryInfo(AppContext.BaseDirectory).Parent!.Name;
        DotNet(
                "pack",
                Repository.PathOf("src/Core"),
                "--no-build",
                "--configuration",
                configuration,
                "--output",
                folder["feed"],
                $"-p:PackageVersion={version}",
                $"-p:NuspecOutputPath={folder["nuspec/"]}"
            )
            .AssertSuccess();
    }

    private ProgramResult DotNet(params string[] arguments) =>
        ProgramRun.ToEnd(
            Limit,
            "dotnet",
            arguments,
            folder.Path,
            new Dictionary<string, string?>
            {
                // Links to NuGet's cache where the file system has them, instead of copies of libtorch.
                ["CreateHardLinksForCopyLocalIfPossible"] = "true",
                ["MSBUILDDISABLENODEREUSE"] = "1",
                [Core.Native.LibTorch.FolderVariable] = null,
            }
        );

    private static string FirstExample() =>
        CSharpBlock().Match(File.ReadAllText(Repository.PathOf("README.md"))).Groups[1].Value;

    private static string CentralVersion(string package) =>
        XDocument
            .Load(Repository.PathOf("Directory.Packages.props"))
            .Descendants("PackageVersion")
            .Single(element => element.Attribute("Include")!.Value == package)
            .Attribute("Version")!
            .Value;

    [GeneratedRegex("```csharp\n(.*?)```", RegexOptions.Singleline)]
    private static partial Regex CSharpBlock();
}
