using System;
using System.IO;
using System.Text;
using Microsoft.Build.Framework;
using Microsoft.Build.Utilities;

/// <summary>
/// Makes libLibTorchSharp.so load where libstdc++ is older than GCC 13. The library asks for GLIBCXX_3.4.32 because of one
/// link-time marker, _ZSt21ios_base_library_initv; marking that version requirement weak makes the loader accept its absence.
/// </summary>
/// <remarks>Works on a copy put in place by rename: the file may be a hard link into the NuGet cache.</remarks>
public class AcceptOlderLibstdcxx : Task
{
    private const string Version = "GLIBCXX_3.4.32";
    private const string Marker = "_ZSt21ios_base_library_initv";

    [Required]
    public string Library { get; set; }

    public override bool Execute()
    {
        if (!File.Exists(Library) || SystemHasVersion())
            return true;
        byte[] elf = File.ReadAllBytes(Library);
        long sections = BitConverter.ToInt64(elf, 0x28);
        int size = BitConverter.ToUInt16(elf, 0x3A), count = BitConverter.ToUInt16(elf, 0x3C);
        long versionIndex = -1, flags = -1;
        long symbols = -1, symbolsEnd = 0, symbolNames = 0, symbolVersions = -1;
        for (int s = 0; s < count; s++)
        {
            long header = sections + (long)s * size;
            uint type = BitConverter.ToUInt32(elf, (int)header + 4);
            long offset = BitConverter.ToInt64(elf, (int)header + 0x18), length = BitConverter.ToInt64(elf, (int)header + 0x20);
            long link = sections + (long)BitConverter.ToUInt32(elf, (int)header + 0x28) * size;
            if (type == 0x6ffffffe) // .gnu.version_r
            {
                long strings = BitConverter.ToInt64(elf, (int)link + 0x18), need = offset;
                for (uint n = BitConverter.ToUInt32(elf, (int)header + 0x2C); n > 0; n--)
                {
                    long aux = need + BitConverter.ToUInt32(elf, (int)need + 8);
                    for (int a = BitConverter.ToUInt16(elf, (int)need + 2); a > 0; a--)
                    {
                        if (Text(elf, strings + BitConverter.ToUInt32(elf, (int)aux + 8)) == Version)
                        {
                            flags = aux + 4;
                            versionIndex = BitConverter.ToUInt16(elf, (int)aux + 6);
                        }

                        aux += BitConverter.ToUInt32(elf, (int)aux + 12);
                    }

                    need += BitConverter.ToUInt32(elf, (int)need + 12);
                }
            }
            else if (type == 11) // .dynsym
            {
                symbols = offset;
                symbolsEnd = offset + length;
                symbolNames = BitConverter.ToInt64(elf, (int)link + 0x18);
            }
            else if (type == 0x6fffffff) // .gnu.version
            {
                symbolVersions = offset;
            }
        }

        if (flags < 0 || (elf[flags] & 2) != 0)
            return true;
        for (long symbol = symbols, i = 0; symbol < symbolsEnd; symbol += 24, i++)
        {
            if ((BitConverter.ToUInt16(elf, (int)(symbolVersions + 2 * i)) & 0x7fff) != versionIndex)
                continue;
            string name = Text(elf, symbolNames + BitConverter.ToUInt32(elf, (int)symbol));
            if (name != Marker)
            {
                Log.LogError($"{Library} needs {name} of {Version}, which this system's libstdc++ lacks. Install a libstdc++ of GCC 13 or newer.");
                return false;
            }
        }

        elf[flags] |= 2;
        string copy = Library + "." + Guid.NewGuid().ToString("N");
        File.WriteAllBytes(copy, elf);
        // The original's time, so that the build's copy step sees nothing to do.
        File.SetLastWriteTimeUtc(copy, File.GetLastWriteTimeUtc(Library));
        File.Replace(copy, Library, null);
        Log.LogMessage(MessageImportance.Normal, $"{Library}: {Version} made optional for this system's older libstdc++.");
        return true;
    }

    private static string Text(byte[] bytes, long start)
    {
        int end = Array.IndexOf(bytes, (byte)0, (int)start);
        return Encoding.ASCII.GetString(bytes, (int)start, end - (int)start);
    }

    private static bool SystemHasVersion()
    {
        foreach (string folder in new[] { "/usr/lib/x86_64-linux-gnu", "/lib/x86_64-linux-gnu", "/usr/lib64", "/lib64", "/usr/lib", "/lib" })
        {
            string library = Path.Combine(folder, "libstdc++.so.6");
            if (File.Exists(library))
                return Encoding.ASCII.GetString(File.ReadAllBytes(library)).Contains(Version + "\0");
        }

        return true;
    }
}
